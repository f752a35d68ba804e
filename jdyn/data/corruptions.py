"""Test inputs made worse on purpose, to ask what a gate does about it.

What happens to an example is a function of (seed, modality, id) alone, so it
does not depend on batches or order, and a higher level only adds to what a
lower one did. MultiBench draws its noise once per batch of unseeded NumPy, and
some of its corruptions are one number for a whole example; here every entry has
its own, except where a modality is lost as a whole.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jdyn.data.dataset import Split

_BLOCK = 1024  # Rows that are decoded at a time.


@dataclasses.dataclass(frozen=True)
class Reference:
  """What is usual for a modality, measured on the training split.

  Attributes:
    std: `f32[F]`, standard deviation of each feature (the last axis) over
      examples and, where there are any, steps or pixels.
    low: the least value of any entry.
    high: the greatest.
  """

  std: np.ndarray
  low: float
  high: float


class Corruption(NamedTuple):
  """How one example's modality is corrupted.

  Attributes:
    apply: `(x, level, rng, reference) -> x` on one example `f32[..., F]`.
    unit: what the level measures.
    max_level: the greatest level that makes sense.
  """

  apply: Callable[[np.ndarray, float, np.random.Generator, Reference], np.ndarray]
  unit: str
  max_level: float


def gaussian(x, level, rng, reference):
  """Adds noise of `level` standard deviations of each feature."""
  noise = rng.standard_normal(x.shape, dtype=np.float32)
  return x + np.float32(level) * reference.std * noise


def missing(x, level, rng, reference):
  """Loses the whole modality, which is then zero, with probability `level`."""
  del reference
  return np.zeros_like(x) if rng.random() < level else x


def mask(x, level, rng, reference):
  """Zeroes each entry with probability `level` (MultiBench's `drop`)."""
  del reference
  return np.where(rng.random(x.shape) < level, np.float32(0), x)


def salt_pepper(x, level, rng, reference):
  """Sets each entry with probability `level` to the least or greatest value."""
  chance = rng.random(x.shape)
  x = np.where(chance < level / 2, np.float32(reference.low), x)
  return np.where(chance >= 1 - level / 2, np.float32(reference.high), x)


CORRUPTIONS = {
  'gaussian': Corruption(gaussian, 'standard deviations', math.inf),
  'mask': Corruption(mask, 'share of entries', 1.0),
  'missing': Corruption(missing, 'share of examples', 1.0),
  'salt_pepper': Corruption(salt_pepper, 'share of entries', 1.0),
}


def measure(split: Split, modalities: Sequence[str]) -> dict[str, Reference]:
  """The `Reference` of each of the given modalities, from a training split."""
  moments = dict.fromkeys(modalities, 0.0)
  low = dict.fromkeys(modalities, np.inf)
  high = dict.fromkeys(modalities, -np.inf)
  for _, inputs in _decoded_blocks(split, modalities):
    for name in modalities:
      x = np.concatenate([_rows(x) for x in _examples(inputs[name])])
      count = np.full(x.shape[-1], len(x))
      moments[name] += np.stack([count, x.sum(0), (x**2).sum(0)])
      low[name] = min(low[name], x.min())
      high[name] = max(high[name], x.max())
  references = {}
  for name, (count, total, squares) in moments.items():
    variance = np.maximum(squares / count - (total / count) ** 2, 0)
    std = np.sqrt(variance).astype(np.float32)
    references[name] = Reference(std, float(low[name]), float(high[name]))
  return references


def corrupt(
  split: Split,
  name: str,
  level: float,
  modalities: Sequence[str],
  seed: int,
  references: Mapping[str, Reference],
) -> Split:
  """A copy of a split, decoded and in memory, with some modalities corrupted.

  Of a sequence, only the steps before `length` are touched.

  Args:
    split: usually the test split; it is not changed.
    name: one of `CORRUPTIONS`.
    level: 0 changes nothing; the unit is the corruption's.
    modalities: which to corrupt; each example independently in each.
    seed: of the noise.
    references: by modality, from `measure` on the training split.

  Raises:
    ValueError: unknown corruption or modality, or a level out of range.
  """
  if name not in CORRUPTIONS:
    raise ValueError(
      f'Unknown corruption {name!r}; expected one of {sorted(CORRUPTIONS)}.'
    )
  corruption = CORRUPTIONS[name]
  if not 0 <= level <= corruption.max_level:
    raise ValueError(
      f'level={level} of {name!r} must lie in [0, {corruption.max_level}] '
      f'({corruption.unit}).'
    )
  blocks = []
  for rows, inputs in _decoded_blocks(split, modalities):
    for modality in modalities:
      changed = [
        corruption.apply(
          x, level, _generator(seed, modality, key), references[modality]
        )
        for x, key in zip(_examples(inputs[modality]), split.ids[rows], strict=True)
      ]
      inputs[modality] = _replace_examples(inputs[modality], changed)
    blocks.append(inputs)
  return dataclasses.replace(split, inputs=_concatenate(blocks), decode=None)


def _generator(seed: int, modality: str, example: str) -> np.random.Generator:
  digest = hashlib.sha256(f'{seed}\0{modality}\0{example}'.encode()).digest()
  return np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], '<u8')))


def _decoded_blocks(
  split: Split, modalities: Sequence[str]
) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
  """Row numbers and decoded inputs of consecutive parts of a split."""
  if unknown := sorted(set(modalities) - set(split.inputs)):
    raise ValueError(
      f'Cannot corrupt {unknown}; the modalities are {sorted(split.inputs)}.'
    )
  for start in range(0, len(split), _BLOCK):
    rows = np.arange(start, min(start + _BLOCK, len(split)))
    inputs = split.select(rows).inputs
    yield rows, dict(split.decode(inputs) if split.decode else inputs)


def _examples(value: Any) -> list[np.ndarray]:
  """Each example of a modality as `f32[..., F]`; of a sequence, its own steps."""
  if isinstance(value, Mapping):
    pairs = zip(value['steps'], value['length'], strict=True)
    return [np.asarray(steps[:length], np.float32) for steps, length in pairs]
  return list(np.asarray(value, np.float32))


def _rows(x: np.ndarray) -> np.ndarray:
  """An example `[..., F]` as `f64[n, F]`."""
  return x.reshape(-1, x.shape[-1]).astype(np.float64)


def _replace_examples(value: Any, examples: Sequence[np.ndarray]) -> Any:
  """A modality with other content in the places that `_examples` gives."""
  if not isinstance(value, Mapping):
    return np.stack(examples)
  steps = np.array(value['steps'], np.float32)
  for row, example in zip(steps, examples, strict=True):
    row[: len(example)] = example
  return {**value, 'steps': steps}


def _concatenate(blocks: Sequence[Any]) -> Any:
  """Joins blocks of inputs leaf by leaf."""
  if isinstance(blocks[0], Mapping):
    return {key: _concatenate([block[key] for block in blocks]) for key in blocks[0]}
  return np.concatenate(blocks)
