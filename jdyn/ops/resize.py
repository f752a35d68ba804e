"""Resizing of images `[B, H, W, C]` by PyTorch's rules."""

import jax
import jax.numpy as jnp
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


def bilinear_each(x: jax.Array, sizes: jax.Array, shape: tuple[int, int]) -> jax.Array:
  """`bilinear` to a size of its own for every image: `[B, *shape, C]`.

  Args:
    x: `[B, H, W, C]`.
    sizes: `i32[B, 2]`; beyond it a result repeats its last row and column.
    shape: at least the greatest of the sizes.
  """
  for axis in (1, 2):
    low, high, share = _between(x.shape[axis], sizes[:, axis - 1], shape[axis - 1])
    ones = [1] * x.ndim
    ones[0], ones[axis] = x.shape[0], shape[axis - 1]
    low, high = (jnp.take_along_axis(x, i.reshape(ones), axis) for i in (low, high))
    x = low + (high - low) * share.reshape(ones).astype(x.dtype)
  return x


def _between(old: int, new: jax.Array, length: int) -> tuple[jax.Array, ...]:
  """Per new pixel `[B, length]`: the two old ones that it is between, and where."""
  centre = jnp.arange(length, dtype=jnp.float32)[None] + 0.5
  place = centre * (old / new.astype(jnp.float32))[:, None] - 0.5
  place = jnp.clip(place, 0, old - 1)
  low = jnp.floor(place).astype(jnp.int32)
  return low, jnp.minimum(low + 1, old - 1), place - low
