"""Salt-and-pepper noise: extreme values."""

import dataclasses
from typing import ClassVar

import numpy as np

from jdyn.data.corruptions.reference import NUMERIC


@dataclasses.dataclass(frozen=True)
class SaltPepper:
  """Sets each entry with probability `level` to its least or greatest value.

  Half of them to either: a feature's extremes over the training split, which for an
  image are pixel values 0 (pepper) and 255 (salt).

  Attributes:
    grey: all channels of a pixel together, as in QMF's code.
  """

  grey: bool = False

  unit: ClassVar[str] = 'share of entries'
  max_level: ClassVar[float] = 1.0
  kinds: ClassVar[tuple[str, ...]] = NUMERIC

  def __call__(self, x, level, rng, reference):
    """See `Corruption`."""
    chance = rng.random((*x.shape[:-1], 1) if self.grey else x.shape)
    x = np.where(chance < level / 2, reference.low, x)
    return np.where(chance >= 1 - level / 2, reference.high, x)
