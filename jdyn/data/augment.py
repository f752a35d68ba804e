"""How ESANet varies an RGB-D image in training: scale, crop, colours, flip.

Everything is done on pixels as they are stored, `uint8` colours and `uint16` depth,
and draws from the generator that is handed in. Depth is not made smaller where the
image is enlarged, as in the original.
"""

import dataclasses
from typing import Literal, NamedTuple

import numpy as np

from jdyn.data.image_files import DEPTH, LABEL, RGB, resize

COLOR_CHANGES = ('fixed', 'paper', 'none')
"""Ways to change colours, see `change_colors`."""

_FACTOR = (0.9, 1.1)  # For hue and saturation, and for the value.
_SHIFT = (-25.0, 25.0)  # For the value, in the older code.


class Example(NamedTuple):
  """One image of a scene with its depth and labels, all of one size.

  Attributes:
    rgb: `u8[H, W, 3]`.
    depth: `u16[H, W]`.
    label: `u8[H, W]`.
  """

  rgb: np.ndarray
  depth: np.ndarray
  label: np.ndarray

  def resized(self, height: int, width: int) -> 'Example':
    """At another size: colours interpolated, the nearest pixel for the others."""
    return Example(
      *(
        resize(image, kind, height, width)
        for image, kind in zip(self, (RGB, DEPTH, LABEL), strict=True)
      )
    )


def rescale(
  example: Example, rng: np.random.Generator, scale: tuple[float, float]
) -> Example:
  """Resizes by one factor for both sides, uniform between the two of `scale`."""
  factor = rng.uniform(*scale)
  height, width = example.label.shape
  return example.resized(round(factor * height), round(factor * width))


def crop(
  example: Example, rng: np.random.Generator, height: int, width: int
) -> Example:
  """A random part; an image that is not larger in both directions is resized.

  The offset is at least 0 and less than what is left over: the last row and column
  are never reached, as in the original.
  """
  spare = example.label.shape[0] - height, example.label.shape[1] - width
  if min(spare) <= 0:
    return example.resized(height, width)
  top, left = (int(rng.integers(n)) for n in spare)
  part = np.s_[top : top + height, left : left + width]
  return Example(*(image[part] for image in example))


def change_colors(
  rgb: np.ndarray, rng: np.random.Generator, how: Literal['fixed', 'paper']
) -> np.ndarray:
  """Multiplies hue and saturation by factors within 10 % of 1: `u8[H, W, 3]`.

  Hue and saturation are cut off at 1; red of a hue near 1 therefore never becomes
  yellow, but that of a hue near 0 does. The result is rounded: ESANet cuts decimals
  off, and before 2025 it kept them.

  Args:
    rgb: `u8[H, W, 3]`.
    rng: of the changes.
    how: `fixed` multiplies the value (brightness), too, as ESANet does since 2025;
      `paper` adds up to 25 of 255 to it, either way, as the code of the papers did.
  """
  import cv2

  hue, saturation = rng.uniform(*_FACTOR), rng.uniform(*_FACTOR)
  value, shift = {
    'fixed': lambda: (rng.uniform(*_FACTOR), 0.0),
    'paper': lambda: (1.0, rng.uniform(*_SHIFT)),
  }[how]()
  # The units are degrees, a share, and pixel values. All by OpenCV, which is several
  # times as fast as NumPy at three channels.
  hsv = cv2.cvtColor(rgb.astype(np.float32), cv2.COLOR_RGB2HSV)
  cv2.multiply(hsv, (hue, saturation, value, 0.0), dst=hsv)
  cv2.add(hsv, (0.0, 0.0, shift, 0.0), dst=hsv)
  cv2.max(hsv, 0.0, dst=hsv)
  cv2.min(hsv, (360.0, 1.0, 255.0, 0.0), dst=hsv)
  return cv2.convertScaleAbs(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))  # Rounds.


def flip(example: Example, rng: np.random.Generator) -> Example:
  """Left and right change places in half of the cases."""
  if rng.random() < 0.5:
    return example
  return Example(*(image[:, ::-1] for image in example))


@dataclasses.dataclass(frozen=True)
class Augment:
  """All of it, in ESANet's order.

  Attributes:
    height: of the result.
    width: of the result.
    scale: least and greatest factor, see `rescale`.
    hsv: `none`, or as `change_colors` takes it.
    flip: whether images are.
  """

  height: int = 480
  width: int = 640
  scale: tuple[float, float] = (1.0, 1.4)
  hsv: Literal['fixed', 'paper', 'none'] = 'fixed'
  flip: bool = True

  def __post_init__(self):
    """Checks the options; raises ValueError."""
    if self.height < 1 or self.width < 1:
      raise ValueError(
        f'height={self.height}, width={self.width}; expected at least 1 each.'
      )
    if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
      raise ValueError(
        f'scale={self.scale}; expected the least and the greatest factor.'
      )
    if self.hsv not in COLOR_CHANGES:
      raise ValueError(f'hsv={self.hsv!r}; expected one of {COLOR_CHANGES}.')

  def __call__(self, example: Example, rng: np.random.Generator) -> Example:
    """One draw, of the size asked for whatever the size of the example."""
    example = rescale(example, rng, self.scale)
    example = crop(example, rng, self.height, self.width)
    if self.hsv != 'none':
      example = example._replace(rgb=change_colors(example.rgb, rng, self.hsv))
    return flip(example, rng) if self.flip else example
