"""A split, example by example: its modalities decoded, taken apart, put together."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jdyn.data.dataset import PRESENT, Split
from jdyn.data.pipeline import nbytes

_BLOCK = 1024  # Rows that are decoded at a time, if they are small.
_BLOCK_BYTES = 2**25  # Of them, as stored.


def blocks(split: Split, multiple: int = 1) -> Iterator[np.ndarray]:
  """Row numbers of consecutive parts of a split, each a multiple of rows but the last.

  As many as can be decoded at a time.
  """
  size = min(_BLOCK, max(1, _BLOCK_BYTES * len(split) // max(1, nbytes(split))))
  size = max(multiple, size // multiple * multiple)
  for start in range(0, len(split), size):
    yield np.arange(start, min(start + size, len(split)))


def decoded(split: Split, rows: np.ndarray) -> dict[str, Any]:
  """The decoded inputs of some rows."""
  inputs = split.select(rows).inputs
  return dict(split.decode(inputs) if split.decode else inputs)


def check_modalities(split: Split, modalities: Sequence[str]) -> None:
  """That a split has them; raises ValueError if not."""
  if unknown := sorted(set(modalities) - set(split.inputs)):
    raise ValueError(
      f'Cannot corrupt {unknown}; the modalities are {sorted(split.inputs)}.'
    )


def are_files(split: Split) -> bool:
  """Whether a split reads files as it is indexed; it may not fit into memory."""
  modalities = [x for name, x in split.inputs.items() if not name.startswith(PRESENT)]
  return not any(isinstance(value, Mapping | np.ndarray) for value in modalities)


def is_text(value: Any) -> bool:
  """Whether a modality is an array of strings."""
  return not isinstance(value, Mapping) and value.dtype.kind in 'UT'


def take_apart(value: Any) -> list[Any]:
  """Each example of a modality: `f32[..., F]`, a `str`, or a sequence's own steps."""
  if isinstance(value, Mapping):
    pairs = zip(value['steps'], value['length'], strict=True)
    return [np.asarray(steps[:length], np.float32) for steps, length in pairs]
  if is_text(value):
    return value.tolist()
  return list(np.asarray(value, np.float32))


def put_back(value: Any, examples: Sequence[Any]) -> Any:
  """A modality with other content in the places that `take_apart` gives."""
  if not isinstance(value, Mapping):
    return np.array(examples)
  steps = np.array(value['steps'], np.float32)
  for row, example in zip(steps, examples, strict=True):
    row[: len(example)] = example
  return {**value, 'steps': steps}


def present(inputs: Mapping[str, Any], modality: str) -> np.ndarray:
  """`bool[N]`, which of the examples have a modality at all."""
  value = inputs[modality]
  count = len(value['length'] if isinstance(value, Mapping) else value)
  return np.asarray(inputs.get(f'{PRESENT}{modality}', np.ones(count, bool)))


def concatenate(blocks: Sequence[Any]) -> Any:
  """Joins blocks of inputs leaf by leaf."""
  if isinstance(blocks[0], Mapping):
    return {key: concatenate([block[key] for block in blocks]) for key in blocks[0]}
  return np.concatenate(blocks)
