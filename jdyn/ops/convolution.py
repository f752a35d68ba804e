"""Convolution whose gradient is fast on CPU too.

XLA on CPU turns the gradient of a kernel into a convolution with a window as large as
the image. For kernels one pixel wide it takes two to ten times as long as a matrix
product per row of the kernel, which is what is done here. Wider kernels, and all other
directions, are left to XLA.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Pairs = tuple[tuple[int, int], ...]


def convolve(
  x: jax.Array,
  kernel: jax.Array,
  strides: Sequence[int],
  padding: Any,
  *,
  precision: lax.PrecisionLike = None,
  **options,
) -> jax.Array:
  """`lax.conv_general_dilated` of `[B, H, W, C]`, for `flax.linen.Conv`.

  Args:
    x: images, channels last.
    kernel: `[height, width, C, D]`.
    strides: in pixels.
    padding: zeros before and after, of both axes.
    precision: of the products.
    options: the others of `lax.conv_general_dilated`; dilations are not supported for
      kernels that are one pixel wide.
  """
  if kernel.shape[1] == 1 and options.get('feature_group_count', 1) == 1:
    return _convolve_column(x, kernel, tuple(strides), tuple(padding), precision)
  return lax.conv_general_dilated(
    x, kernel, strides, padding, precision=precision, **options
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolve_column(x, kernel, strides: tuple[int, int], padding: Pairs, precision):
  return lax.conv_general_dilated(
    x,
    kernel,
    strides,
    padding,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    precision=precision,
  )


def _forward(x, kernel, strides, padding, precision):
  return _convolve_column(x, kernel, strides, padding, precision), (x, kernel)


def _backward(strides, padding, precision, saved, cotangent):
  x, kernel = saved

  def of_image(x):
    return _convolve_column.fun(x, kernel, strides, padding, precision)

  (image,) = jax.vjp(of_image, x)[1](cotangent)
  padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  _, height, width, _ = cotangent.shape
  rows = []
  for row in range(kernel.shape[0]):
    stop = row + (height - 1) * strides[0] + 1, (width - 1) * strides[1] + 1
    seen = padded[:, row : stop[0] : strides[0], : stop[1] : strides[1]]
    every = ((0, 1, 2), (0, 1, 2))
    rows.append(
      lax.dot_general(seen, cotangent, (every, ((), ())), precision=precision)
    )
  return image, jnp.stack(rows)[:, None].astype(kernel.dtype)


_convolve_column.defvjp(_forward, _backward)
