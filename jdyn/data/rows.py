"""The examples of one batch, read by modality and by row when somebody asks.

Conditional execution asks for the modalities of a costly path only on the rows that
chose it, so what is not needed is neither read nor decoded.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jdyn.data import npy
from jdyn.data.dataset import PRESENT, DataError, ModalitySpec, Split
from jdyn.data.pipeline import assemble

Files = Sequence[str | Path]


def _are_files(value: Any) -> bool:
  """Whether a modality is given as one file per example."""
  return isinstance(value, list)


def _as_given(name: str, value: Any, modalities: Mapping[str, ModalitySpec]) -> Any:
  """A modality's list of paths, array or sequence, or a mask of presence, checked."""
  if name.startswith(PRESENT):
    mask = np.asarray(value)
    if mask.dtype != bool or mask.ndim != 1:
      raise ValueError(
        f'inputs[{name!r}] must be bool [B], got {mask.dtype} {list(mask.shape)}.'
      )
    return mask
  spec = modalities[name]
  if not isinstance(value, Mapping) and not hasattr(value, 'shape'):
    if all(isinstance(item, str | Path) for item in value):
      return list(value)
    value = np.asarray(value)
  if not spec.sequence:
    _check_shape(f'inputs[{name!r}]', value, spec.shape)
    return value
  if not isinstance(value, Mapping) or set(value) != {'steps', 'length'}:
    raise ValueError(
      f"inputs[{name!r}] is a sequence: give {{'steps': [B, T, F], 'length': [B]}}."
    )
  steps, length = value['steps'], value['length']
  _check_shape(f"inputs[{name!r}]['steps']", steps, spec.shape)
  host = np.asarray(length)
  if host.shape != steps.shape[:1] or (host < 1).any() or (host > spec.shape[0]).any():
    raise ValueError(
      f"inputs[{name!r}]['length'] must hold one number of steps per example, "
      f'from 1 to {spec.shape[0]}.'
    )
  return {'steps': steps, 'length': length}


def _check_shape(what: str, array: Any, shape: tuple[int, ...]) -> None:
  if tuple(np.shape(array)[1:]) != tuple(shape) or not np.ndim(array):
    raise ValueError(
      f'{what} must be [B, {", ".join(map(str, shape))}], got {list(np.shape(array))}.'
    )


class FileRows:
  """Examples as the caller gives them: arrays, or one `.npy` file per example.

  Attributes:
    size: number of examples.
    names: of the modalities.
    has_files: whether any modality is given as files.
  """

  def __init__(self, inputs: Mapping[str, Any], modalities: Mapping[str, ModalitySpec]):
    """Reads nothing yet.

    Args:
      inputs: by modality: an array `[B, ...]`, a sequence's mapping of arrays, or a
        list of `B` paths of `.npy` files with one example each (`[T, F]` with its own
        `T` for a sequence); `present/<modality>`, `bool[B]`, where some lack it.
      modalities: shape and kind of each.

    Raises:
      ValueError: modalities of different lengths, or an array of another shape.
    """
    self._modalities = modalities
    self._inputs = {name: _as_given(name, inputs[name], modalities) for name in inputs}
    sizes = {name: len(self._lead(name)) for name in sorted(inputs)}
    if len(set(sizes.values())) != 1 or not min(sizes.values()):
      raise ValueError(
        'inputs must hold as many examples of every modality, one or more; got '
        f'{sizes}.'
      )
    (self.size,) = set(sizes.values())
    self.names = tuple(sizes)
    self.has_files = any(_are_files(value) for value in self._inputs.values())

  def _lead(self, name: str) -> Any:
    value = self._inputs[name]
    return value['steps'] if isinstance(value, Mapping) else value

  def read(
    self, names: Sequence[str] | None = None, rows: np.ndarray | None = None
  ) -> dict[str, Any]:
    """The named modalities of some rows; None stands for all.

    Raises:
      DataError: a file is missing, damaged or of another shape.
    """
    return {
      name: self._read(name, rows) for name in (self.names if names is None else names)
    }

  def _read(self, name: str, rows: np.ndarray | None) -> Any:
    value = self._inputs[name]
    if _are_files(value):
      spec = self._modalities[name]
      paths = [value[row] for row in (range(self.size) if rows is None else rows)]
      examples = [_load(Path(path), spec) for path in paths]
      return _pad(examples, spec) if spec.sequence else np.stack(examples)
    if rows is None:
      return value
    return _take(value, rows)


class SplitRows:
  """Some rows of a split as one batch.

  Attributes:
    size: number of examples.
    names: of the inputs.
  """

  def __init__(self, split: Split, rows: np.ndarray):
    """`rows` of `split` are the batch; nothing is read yet."""
    self._split, self._rows, self.size = split, rows, len(rows)
    self.names = tuple(sorted(split.inputs))

  def read(
    self, names: Sequence[str] | None = None, rows: np.ndarray | None = None
  ) -> dict[str, Any]:
    """The named modalities of some rows of the batch; None stands for all."""
    split = self._split.only(self.names if names is None else names)
    if rows is None or split.collate is None:
      return assemble(split, self._rows if rows is None else self._rows[rows])['inputs']
    # What one example becomes depends on the rest of the batch.
    whole = assemble(split, self._rows)['inputs']
    return {name: _take(value, rows) for name, value in whole.items()}


def _take(value: Any, rows: np.ndarray) -> Any:
  if isinstance(value, Mapping):
    return {key: leaf[rows] for key, leaf in value.items()}
  return value[rows]


def _load(path: Path, spec: ModalitySpec) -> np.ndarray:
  """One example."""
  try:
    array = npy.read(path)
  except (OSError, ValueError) as error:
    raise DataError(
      f'{path} is no readable .npy file ({error}); write it with numpy.save, without '
      'Python objects.'
    ) from error
  free = 1 if spec.sequence else 0  # A sequence has its own number of steps.
  fits = array.ndim == len(spec.shape) and array.shape[free:] == spec.shape[free:]
  if not fits or (spec.sequence and not 1 <= len(array) <= spec.shape[0]):
    steps = f'at most {spec.shape[0]} steps of shape ' if spec.sequence else 'shape '
    raise DataError(
      f'{path} holds an array {list(array.shape)}; the model reads {steps}'
      f'{list(spec.shape[free:])}.'
    )
  return array


def _pad(examples: Sequence[np.ndarray], spec: ModalitySpec) -> dict[str, np.ndarray]:
  """Sequences of different lengths as one batch, zeros at their ends."""
  steps = np.zeros((len(examples), *spec.shape), np.float32)
  for row, example in zip(steps, examples, strict=True):
    row[: len(example)] = example
  length = np.array([len(example) for example in examples], np.int32)
  return {'steps': steps, 'length': length}
