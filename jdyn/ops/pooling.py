"""Pooling of images `[B, H, W, C]` with PyTorch's windows."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def max_pool(x: jax.Array) -> jax.Array:
  """Maxima of 3×3 windows, two pixels apart, around the even pixels.

  `[B, H, W, C]` to `[B, ceil(H / 2), ceil(W / 2), C]`; what lies outside of the image
  does not count. Equal to `torch.nn.functional.max_pool2d(x, 3, 2, 1)`, but that the
  gradient of equal maxima is shared between them; behind a ReLU no gradient passes
  those that are zero.

  As maxima of pairs: the backward pass of XLA's window reduction is five times slower
  on CPU.
  """
  return _max_pool_line(_max_pool_line(x, 1), 2)


def _max_pool_line(x: jax.Array, axis: int) -> jax.Array:
  """Maxima over each even pixel of a line and its two neighbours."""
  size = x.shape[axis]
  half = -(-size // 2)
  odd_end = [(0, 2 * half - size if a == axis else 0) for a in range(x.ndim)]
  padded = jnp.pad(x, odd_end, constant_values=-jnp.inf)
  pairs = padded.reshape(*x.shape[:axis], half, 2, *x.shape[axis + 1 :])
  even = lax.index_in_dim(pairs, 0, axis + 1, keepdims=False)
  odd = lax.index_in_dim(pairs, 1, axis + 1, keepdims=False)
  shift = [(1 if a == axis else 0, 0) for a in range(x.ndim)]
  before = jnp.pad(odd, shift, constant_values=-jnp.inf)
  before = lax.slice_in_dim(before, 0, half, axis=axis)
  return jnp.maximum(jnp.maximum(even, odd), before)


def adaptive_average_pool(x: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Means over a grid of cells: `[B, H, W, C]` to `[B, *size, C]`.

  Cell `i` of a line of `n` pixels is the mean of those from `floor(i n / cells)` to
  before `ceil((i + 1) n / cells)`, as in `torch.nn.AdaptiveAvgPool2d`: cells may
  overlap, and a small image is enlarged.
  """
  rows, columns = (
    jnp.asarray(_averages(n, cells), x.dtype)
    for n, cells in zip(x.shape[1:3], size, strict=True)
  )
  x = jnp.einsum('ih,bhwc->biwc', rows, x, precision=lax.Precision.HIGHEST)
  return jnp.einsum('jw,biwc->bijc', columns, x, precision=lax.Precision.HIGHEST)


def _averages(size: int, cells: int) -> np.ndarray:
  """`f64[cells, size]`, the weights of a line's pixels in each cell's mean."""
  cell, pixel = np.arange(cells)[:, None], np.arange(size)
  start, stop = cell * size // cells, -(-(cell + 1) * size // cells)
  inside = (start <= pixel) & (pixel < stop)
  return inside / inside.sum(1, keepdims=True)
