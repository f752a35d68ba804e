"""Resizing of images `[B, H, W, C]` by PyTorch's rules."""

import jax
import numpy as np


def nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
  """The pixel at `floor(i * old / new)` in place of pixel `i`: `[B, *size, C]`.

  The rule of `torch.nn.functional.interpolate`, whose ratio is a float32, and of
  OpenCV. (`jax.image.resize` takes the pixel under the new one's centre.)
  """
  for axis, new in zip((1, 2), size, strict=True):
    old = x.shape[axis]
    if new % old == 0:
      x = x.repeat(new // old, axis)
    else:
      ratio = np.float32(old) / np.float32(new)
      pixel = np.floor(np.arange(new, dtype=np.float32) * ratio).astype(np.int32)
      x = x.take(np.minimum(pixel, old - 1), axis)
  return x


def bilinear(x: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Linear interpolation between pixel centres: `[B, *size, C]`.

  As `torch.nn.functional.interpolate(..., align_corners=False)`: images are not
  smoothed before they are made smaller.
  """
  shape = (x.shape[0], *size, x.shape[3])
  return jax.image.resize(x, shape, 'bilinear', antialias=False)
