"""Doubling the size of an image, with or without weights (ESANet)."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jdyn.layers.conv import Conv
from jdyn.ops import resize

Upsampling = Literal['learned-3x3-zeropad', 'learned-3x3', 'bilinear', 'nearest']
"""The original's names.

- `learned-3x3-zeropad`: every pixel becomes four, then a depthwise 3x3 convolution,
  which starts as bilinear interpolation but for darker borders, since zeros surround
  the image.
- `learned-3x3`: the same, where the border's pixels surround it.
- `bilinear` and `nearest`: without weights.
"""

_PADDING = {'learned-3x3-zeropad': 'constant', 'learned-3x3': 'edge'}


class Upsample(nn.Module):
  """Maps an image to one of twice its height and width.

  Attributes:
    mode: one of `Upsampling`.
  """

  mode: Upsampling = 'learned-3x3-zeropad'

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, C]` to `[B, 2 H, 2 W, C]`.

    Raises:
      ValueError: the mode is unknown.
    """
    _, height, width, channels = x.shape
    if self.mode in _PADDING:
      return Conv(
        channels,
        (3, 3),
        feature_group_count=channels,
        kernel_init=_interpolation,
        conv_general_dilated=functools.partial(
          _doubled_and_convolved, mode=_PADDING[self.mode]
        ),
        name='conv',
      )(x)
    if self.mode in ('bilinear', 'nearest'):
      return getattr(resize, self.mode)(x, (2 * height, 2 * width))
    modes = [*_PADDING, 'bilinear', 'nearest']
    raise ValueError(f'upsampling={self.mode!r}; expected one of {modes}.')


def _interpolation(key, shape, dtype=jnp.float32) -> jax.Array:
  """Bilinear interpolation as a depthwise 3×3 kernel on doubled pixels."""
  del key
  line = np.array([1, 2, 1]) / 4
  return jnp.broadcast_to(np.outer(line, line)[:, :, None, None], shape).astype(dtype)


def _doubled_and_convolved(x, kernel, *args, mode: str, **options):
  """The depthwise convolution `kernel` `[3, 3, 1, C]` of `x` with doubled pixels.

  In a doubled image a 3×3 window covers 2×2 pixels of the small one. Which of its
  weights fall on the same pixel depends on whether the window's row and column are
  even, so the result is four convolutions of the small image, each with four weights.
  (XLA's depthwise convolutions are fifty times slower on CPU than these sums.)
  """
  del args, options  # `nn.Conv` hands over its strides and paddings, which are fixed.
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode=mode)
  weights = [
    [*zip(*map(_halves, by_row), strict=True)] for by_row in _halves(kernel[:, :, 0])
  ]
  return resize.doubled(padded, jnp.array(weights))


def _halves(line) -> list[tuple[jax.Array, jax.Array]]:
  """The two weights of an even and of an odd place, of three weights of a line."""
  before, here, after = line
  return [(before, here + after), (before + here, after)]
