"""What is usual for a modality: the yardstick of levels."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jdyn.data.corruptions.examples import (
  blocks,
  check_modalities,
  decoded,
  is_text,
  present,
  take_apart,
)
from jdyn.data.dataset import Split

NUMERIC = ('features', 'series', 'image')
"""Kinds of modalities that are numbers; by the axes of an example, see `Reference`."""

KINDS = (*NUMERIC, 'text')
"""All kinds of modalities."""


@dataclasses.dataclass(frozen=True)
class Reference:
  """A modality, measured on the training split.

  Attributes:
    kind: `features` if an example is `[F]`, `series` if `[T, F]` or a sequence,
      `image` if it has more axes, of which the last are the channels; `text` if it
      is a string.
    std: `f32[F]`, standard deviation of each feature (the last axis) over examples
      and, where there are any, steps or pixels. Empty for text, and so the others.
    low: `f32[F]`, the least value of each.
    high: `f32[F]`, the greatest.
  """

  kind: str
  std: np.ndarray
  low: np.ndarray
  high: np.ndarray

  def to_pixels(self, x: np.ndarray) -> np.ndarray:
    """An image on the scale 0-255, which `low` and `high` are taken to be the ends of.

    They are where the training images use the whole scale, whatever was then
    subtracted or divided channel by channel.
    """
    span = np.where(self.high > self.low, self.high - self.low, 1)
    return 255 * ((x - self.low) / span)

  def from_pixels(self, pixels: np.ndarray) -> np.ndarray:
    """The inverse of `to_pixels`, as `f32`."""
    x = self.low + (pixels / 255) * (self.high - self.low)
    return x.astype(np.float32)


def measure(split: Split, modalities: Sequence[str]) -> dict[str, Reference]:
  """The `Reference` of each of the given modalities, from a training split.

  Steps beyond a sequence's end do not count, nor do examples that lack a modality.

  Raises:
    ValueError: unknown modality, or one that is neither numbers nor strings.
  """
  check_modalities(split, modalities)
  kinds: dict[str, str] = {}
  moments = dict.fromkeys(modalities, 0.0)
  low = dict.fromkeys(modalities, np.inf)
  high = dict.fromkeys(modalities, -np.inf)
  for rows in blocks(split):
    inputs = decoded(split, rows)
    for name in modalities:
      kinds[name] = _kind(name, inputs[name])
      if kinds[name] == 'text':
        continue
      there = present(inputs, name)
      examples = zip(take_apart(inputs[name]), there, strict=True)
      if parts := [x.reshape(-1, x.shape[-1]) for x, has in examples if has]:
        x = np.concatenate(parts)
        count = np.full(x.shape[-1], len(x))
        squares = np.einsum('nf,nf->f', x, x, dtype=np.float64)
        moments[name] += np.stack([count, x.sum(0, dtype=np.float64), squares])
        low[name] = np.minimum(low[name], x.min(0))
        high[name] = np.maximum(high[name], x.max(0))
  return {
    name: _reference(kind, moments[name], low[name], high[name])
    for name, kind in kinds.items()
  }


def _kind(name: str, value: Any) -> str:
  if isinstance(value, Mapping):
    if 'steps' in value:
      return 'series'
  elif is_text(value):
    return 'text'
  elif value.ndim > 1 and value.dtype.kind in 'fiub':
    return NUMERIC[min(value.ndim - 2, 2)]
  raise ValueError(
    f'Cannot corrupt {name!r}: it is neither an array of numbers [N, ..., F], nor a '
    'sequence of steps, nor an array of strings [N]. Corrupt text before it is '
    'turned into tokens.'
  )


def _reference(kind: str, moments: Any, low: Any, high: Any) -> Reference:
  if kind == 'text':
    nothing = np.zeros(0, np.float32)
    return Reference(kind, nothing, nothing, nothing)
  count, total, squares = moments
  variance = np.maximum(squares / count - (total / count) ** 2, 0)
  std, low, high = (np.asarray(x, np.float32) for x in (np.sqrt(variance), low, high))
  return Reference(kind, std, low, high)
