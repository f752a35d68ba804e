"""Resizing of images `[B, H, W, C]` by PyTorch's rules, and with weights."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


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


@jax.custom_vjp
def doubled(padded: jax.Array, weights: jax.Array) -> jax.Array:
  """Four pixels for every one, each a weighted sum of 2×2 neighbours.

  Args:
    padded: images with a border of one pixel, `[B, H + 2, W + 2, C]`.
    weights: `[2, 2, 2, 2, C]`: of the even and odd rows and columns of the result
      (first two axes), for the neighbours above and below, left and right (last two).
      Those of an even row are a pixel and the one above it; of an odd one, a pixel and
      the one below.

  Returns:
    `[B, 2 H, 2 W, C]`.
  """
  batch, height, width, channels = padded.shape
  height, width = height - 2, width - 2
  weights = weights.reshape(2, 2, 2, 2, 1, 1, 1, channels)
  y = [
    sum(
      padded[:, row + i : row + i + height, column + j : column + j + width]
      * weights[row, column, i, j]
      for i, j in _PAIRS
    )
    for row, column in _PAIRS
  ]
  y = [jnp.stack(y[:2], axis=3), jnp.stack(y[2:], axis=3)]
  y = jnp.stack(y, axis=2)  # [B, H, 2, W, 2, C]
  return y.reshape(batch, 2 * height, 2 * width, channels)


_PAIRS = list(itertools.product(range(2), repeat=2))
_FOURS = list(itertools.product(_PAIRS, repeat=2))


def _doubled_forward(padded, weights):
  return doubled(padded, weights), (padded, weights)


def _doubled_backward(saved, cotangent):
  def everywhere(padded, weights, cotangent):
    return jax.vjp(doubled.fun, padded, weights)[1](cotangent)

  return lax.platform_dependent(
    *saved, cotangent, cpu=_gradient_by_rows, default=everywhere
  )


def _gradient_by_rows(padded, weights, cotangent):
  """The gradients of `doubled`, row by row.

  The products of a row stay in a processor's cache. All at once they are sixteen images
  of the size of the input, which takes four times as long.
  """
  batch, height, width, channels = padded.shape
  height, width = height - 2, width - 2
  rows = cotangent.reshape(batch * height, 2, width, 2, channels)
  factors = weights.reshape(2, 2, 2, 2, 1, channels)

  def add_row(n, sums):
    image, of_weights = sums
    start = (n // height, n % height, 0, 0)
    size = (1, 3, width + 2, channels)
    (seen,) = lax.dynamic_slice(padded, start, size)
    given = rows[n]
    of_weights = [
      total + seen[row + i, column + j : column + j + width] * given[row, :, column]
      for total, ((row, column), (i, j)) in zip(of_weights, _FOURS, strict=True)
    ]
    wide = jnp.pad(given, ((0, 0), (2, 2), (0, 0), (0, 0)))
    of_seen = [0, 0, 0]
    for (row, column), (i, j) in _FOURS:
      first = 2 - column - j
      of_seen[row + i] += (
        wide[row, first : first + width + 2, column] * factors[row, column, i, j]
      )
    now = lax.dynamic_slice(image, start, size) + jnp.stack(of_seen)[None]
    return lax.dynamic_update_slice(image, now, start), of_weights

  dtype = jnp.promote_types(weights.dtype, jnp.float32)
  nothing = [jnp.zeros((width, channels), dtype)] * len(_FOURS)
  image, of_weights = lax.fori_loop(
    0, len(rows), add_row, (jnp.zeros_like(padded), nothing)
  )
  of_weights = jnp.stack([x.sum(0) for x in of_weights]).reshape(weights.shape)
  return image, of_weights.astype(weights.dtype)


doubled.defvjp(_doubled_forward, _doubled_backward)
