"""Losing values: single entries, whole steps, or a modality as a whole."""

import dataclasses
from typing import ClassVar

import numpy as np

from jdyn.data.corruptions.reference import KINDS, NUMERIC


@dataclasses.dataclass(frozen=True)
class Mask:
  """Zeroes each entry with probability `level`.

  MultiBench's `drop_entry` (tabular) and `random_drop` (time series).
  """

  unit: ClassVar[str] = 'share of entries'
  max_level: ClassVar[float] = 1.0
  kinds: ClassVar[tuple[str, ...]] = NUMERIC

  def __call__(self, x, level, rng, reference):
    """See `Corruption`."""
    del reference
    return np.where(rng.random(x.shape) < level, np.float32(0), x)


@dataclasses.dataclass(frozen=True)
class DropSteps:
  """Zeroes each step, all features of it, with probability `level`.

  MultiBench's `structured_drop`. Its documentation speaks of all modalities being
  lost at once; its code draws for each, and so do we.
  """

  unit: ClassVar[str] = 'share of steps'
  max_level: ClassVar[float] = 1.0
  kinds: ClassVar[tuple[str, ...]] = ('series',)

  def __call__(self, x, level, rng, reference):
    """See `Corruption`."""
    del reference
    return np.where(rng.random((len(x), 1)) < level, np.float32(0), x)


@dataclasses.dataclass(frozen=True)
class Missing:
  """Loses the whole modality with probability `level`: zeros, or an empty string.

  The model is not told: a mask `present/<modality>` stays as it is.
  """

  unit: ClassVar[str] = 'share of examples'
  max_level: ClassVar[float] = 1.0
  kinds: ClassVar[tuple[str, ...]] = KINDS

  def __call__(self, x, level, rng, reference):
    """See `Corruption`."""
    del reference
    if rng.random() >= level:
      return x
    return '' if isinstance(x, str) else np.zeros_like(x)
