"""The examples of one batch, read by modality and by row when somebody asks.

Conditional execution asks for the modalities of a costly path only on the rows that
chose it, so what is not needed is neither read nor decoded.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jdyn.data import npy
from jdyn.data.absent import blank
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
  plain = not isinstance(value, Mapping) and not hasattr(value, 'shape')
  if plain and all(isinstance(item, str | Path) for item in value):
    return list(value)
  if not spec.sequence:
    return _as_array(f'inputs[{name!r}]', value, spec.shape)
  if not isinstance(value, Mapping) or set(value) != {'steps', 'length'}:
    raise ValueError(
      f"inputs[{name!r}] is a sequence: give {{'steps': [B, T, F], 'length': [B]}}."
    )
  return {
    'steps': _as_array(f"inputs[{name!r}]['steps']", value['steps'], spec.shape),
    'length': _as_array(f"inputs[{name!r}]['length']", value['length'], ()),
  }


def _as_array(what: str, value: Any, shape: tuple[int, ...]) -> Any:
  array = value if hasattr(value, '__array_namespace__') else np.asarray(value)
  if array.dtype.kind in 'OSUcmM':
    raise ValueError(f'{what} is of type {array.dtype}; expected numbers.')
  if not array.ndim or tuple(array.shape[1:]) != tuple(shape):
    expected = ', '.join(['B', *map(str, shape)])
    raise ValueError(f'{what} must be [{expected}], got {list(array.shape)}.')
  return array


def _check_length(name: str, length: Any, steps: int, present: np.ndarray) -> None:
  length = np.asarray(length)
  whole = length.dtype.kind in 'iu' and length.shape == present.shape
  if not whole or (present & ((length < 1) | (length > steps))).any():
    raise ValueError(
      f"inputs[{name!r}]['length'] must hold one whole number of steps per example, "
      f'from 1 to {steps}.'
    )


class FileRows:
  """Examples as the caller gives them: arrays, or one `.npy` file per example.

  Attributes:
    size: number of examples.
    names: of the modalities.
    files: the modalities that are given as files.
  """

  def __init__(self, inputs: Mapping[str, Any], modalities: Mapping[str, ModalitySpec]):
    """Reads nothing yet.

    Args:
      inputs: by modality: an array `[B, ...]`, a sequence's mapping of arrays, or a
        list of `B` paths of `.npy` files with one example each (`[T, F]` with its own
        `T` for a sequence); `present/<modality>`, `bool[B]`, where some lack it: what
        is given for these is neither read nor looked at.
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
    self.files = tuple(name for name in self.names if _are_files(self._inputs[name]))
    for name, value in self._inputs.items():
      if isinstance(value, Mapping):
        steps = modalities[name].shape[0]
        _check_length(name, value['length'], steps, self._present(name))

  def _present(self, name: str, rows: Any = slice(None)) -> np.ndarray:
    mask = self._inputs.get(f'{PRESENT}{name}')
    return (np.ones(self.size, bool) if mask is None else mask)[rows]

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
    value, every = self._inputs[name], slice(None)
    present = self._present(name, every if rows is None else rows)
    if _are_files(value):
      spec = self._modalities[name]
      numbers = range(self.size) if rows is None else rows
      found = [
        _load(Path(value[row]), spec) if here else None
        for row, here in zip(numbers, present, strict=True)
      ]
      dtype = next((x.dtype for x in found if x is not None), np.float32)
      nothing = np.zeros((1, *spec.shape[1:]) if spec.sequence else spec.shape, dtype)
      examples = [nothing if x is None else x for x in found]
      return _pad(examples, spec) if spec.sequence else np.stack(examples)
    value = value if rows is None else _take(value, rows)
    return value if present.all() else blank(value, present)


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
