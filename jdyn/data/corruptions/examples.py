"""A split, example by example: its modalities decoded, taken apart, put together."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jdyn.data.dataset import PRESENT, Split

_BLOCK = 1024  # Rows that are decoded at a time.


def decoded_blocks(split: Split) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
  """Row numbers and decoded inputs of consecutive parts of a split."""
  for start in range(0, len(split), _BLOCK):
    rows = np.arange(start, min(start + _BLOCK, len(split)))
    inputs = split.select(rows).inputs
    yield rows, dict(split.decode(inputs) if split.decode else inputs)


def check_modalities(split: Split, modalities: Sequence[str]) -> None:
  """That a split has them; raises ValueError if not."""
  if unknown := sorted(set(modalities) - set(split.inputs)):
    raise ValueError(
      f'Cannot corrupt {unknown}; the modalities are {sorted(split.inputs)}.'
    )


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
