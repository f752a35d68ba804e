"""Gaussian noise, measured by the data's spread, its size, pixels, or step by step."""

import dataclasses
import functools
import math
from typing import ClassVar

import numpy as np

from jdyn.data.corruptions.reference import NUMERIC

CLIPS = ('both', 'repo_wrap')
"""What becomes of pixels below 0, see `PixelGaussian`."""


@dataclasses.dataclass(frozen=True)
class Gaussian:
  """Adds noise of `level` standard deviations of each feature, to every entry."""

  unit: ClassVar[str] = 'standard deviations of each feature'
  max_level: ClassVar[float] = math.inf
  kinds: ClassVar[tuple[str, ...]] = NUMERIC

  def __call__(self, x, level, rng, reference):
    """See `Corruption`."""
    noise = rng.standard_normal(x.shape, dtype=np.float32)
    return x + np.float32(level) * reference.std * noise


@dataclasses.dataclass(frozen=True)
class RelativeGaussian:
  """Adds noise whose standard deviation is `level` times the example's mean |x|.

  x is what the model gets, normalised if it is. DynMM's noise on RGB-D; there the
  argument is called a level of variance.
  """

  unit: ClassVar[str] = 'mean absolute values of the example'
  max_level: ClassVar[float] = math.inf
  kinds: ClassVar[tuple[str, ...]] = NUMERIC

  def __call__(self, x, level, rng, reference):
    """See `Corruption`."""
    del reference
    std = np.float32(level) * np.abs(x).mean(dtype=np.float64).astype(np.float32)
    return x + std * rng.standard_normal(x.shape, dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class PixelGaussian:
  """Adds noise with standard deviation `level` on the scale of pixel values, 0-255.

  The options are what QMF's code does; its argument called `variance` (RGB-D) or
  `amplitude` (text and images) is the standard deviation.

  Attributes:
    clip: `both`: the result is kept within 0 and 255. `repo_wrap`: pixels are whole
      numbers, and only what exceeds 255 is clipped; the rest goes through a cast to
      uint8, which turns -5.3 into 251, so that dark pixels become bright. (The cast
      is undefined in C; this is what x86 makes of it.)
    grey: all channels get the same noise.
    shared_pattern: every image of equal size gets the same noise, that of NumPy's
      global generator after seed 0, whatever the seed asked for.
  """

  clip: str = 'both'
  grey: bool = False
  shared_pattern: bool = False

  unit: ClassVar[str] = 'pixel values (0-255)'
  max_level: ClassVar[float] = math.inf
  kinds: ClassVar[tuple[str, ...]] = ('image',)

  def __post_init__(self):
    """Checks the options; raises ValueError."""
    if self.clip not in CLIPS:
      raise ValueError(f'Unknown clip {self.clip!r}; expected one of {CLIPS}.')

  def __call__(self, x, level, rng, reference):
    """See `Corruption`."""
    shape = (*x.shape[:-1], 1) if self.grey else x.shape
    noise = _pattern(shape) if self.shared_pattern else rng.standard_normal(shape)
    pixels = reference.to_pixels(x)
    if self.clip == 'both':
      return reference.from_pixels(np.clip(pixels + level * noise, 0, 255))
    pixels = np.minimum(np.round(pixels) + level * noise, 255)
    return reference.from_pixels(np.trunc(pixels) % 256)


@dataclasses.dataclass(frozen=True)
class WhiteNoise:
  """Adds one number to all features of a step, with standard deviation `level`.

  MultiBench's `white_noise`; the unit is that of the data, the same for all features.

  Attributes:
    whole: one number for all steps of an example. MultiBench's readers of the
      affective data and of MIMIC hand over a list of one array `[N, T, F]` where the
      function expects `[N, T, F]`, so that it takes examples for steps.
  """

  whole: bool = False

  unit: ClassVar[str] = 'the values of the data'
  max_level: ClassVar[float] = math.inf
  kinds: ClassVar[tuple[str, ...]] = ('series',)

  def __call__(self, x, level, rng, reference):
    """See `Corruption`."""
    del reference
    noise = rng.standard_normal((1 if self.whole else len(x), 1), dtype=np.float32)
    return x + np.float32(level) * noise


@functools.lru_cache(maxsize=4)
def _pattern(shape: tuple[int, ...]) -> np.ndarray:
  """What `np.random.seed(0); np.random.normal(size=shape)` draws."""
  return np.random.RandomState(0).normal(size=shape)
