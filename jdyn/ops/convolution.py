"""Convolutions that are fast on CPU too.

Two kinds are slow there as XLA runs them, and are matrix products here:

- The gradient of a kernel of few pixels, as of the 3×1, 1×3 and 1×1 ones of residual
  blocks. XLA makes it a convolution with a window as large as the image, which takes
  two to ten times as long.
- Convolutions of many pixels with few outputs, as a gate's, which XLA pads to many. A
  product per pixel with all of the kernel, whose parts are then shifted and added,
  takes a tenth; it computes a few more at the border.

All others are left to XLA.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Pairs = tuple[tuple[int, int], ...]

_FEW_OUTPUTS = 8
_FEW_PIXELS = 3
_MANY_PIXELS = 16


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
      the kernels that are treated here.
  """
  pixels = math.prod(kernel.shape[:2])
  if options.get('feature_group_count', 1) == 1:
    if pixels <= _FEW_PIXELS:
      return _convolve_small(x, kernel, tuple(strides), tuple(padding), precision)
    if pixels >= _MANY_PIXELS and kernel.shape[3] <= _FEW_OUTPUTS:
      return _convolve_to_few(x, kernel, strides, padding, precision)
  return lax.conv_general_dilated(
    x, kernel, strides, padding, precision=precision, **options
  )


def _convolve_to_few(x, kernel, strides, padding, precision) -> jax.Array:
  """Products of every pixel and the whole kernel, shifted and added.

  With strides, a pixel meets only the part of the kernel that is congruent to it.
  """
  padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  height, width = (
    (size - side) // stride + 1
    for size, side, stride in zip(
      padded.shape[1:3], kernel.shape[:2], strides, strict=True
    )
  )
  y = 0
  for row in range(strides[0]):
    for column in range(strides[1]):
      pixels = padded[:, row :: strides[0], column :: strides[1]]
      part = kernel[row :: strides[0], column :: strides[1]]
      products = jnp.einsum('bhwc,ijcd->bhwijd', pixels, part, precision=precision)
      for i in range(part.shape[0]):
        for j in range(part.shape[1]):
          y += products[:, i : i + height, j : j + width, i, j]
  return y


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolve_small(x, kernel, strides: tuple[int, int], padding: Pairs, precision):
  return lax.conv_general_dilated(
    x,
    kernel,
    strides,
    padding,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    precision=precision,
  )


def _forward(x, kernel, strides, padding, precision):
  return _convolve_small(x, kernel, strides, padding, precision), (x, kernel)


def _backward(strides, padding, precision, saved, cotangent):
  x, kernel = saved

  def of_image(x):
    return _convolve_small.fun(x, kernel, strides, padding, precision)

  (image,) = jax.vjp(of_image, x)[1](cotangent)
  # XLA for CPU lays images out for the product below as soon as it can, in the forward
  # pass, and keeps them all until here. So they wait for the cotangent.
  x = x + 0 * cotangent[0, 0, 0, 0]
  padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  rows, columns = (
    [slice(first, first + (size - 1) * stride + 1, stride) for first in range(side)]
    for side, size, stride in zip(
      kernel.shape[:2], cotangent.shape[1:3], strides, strict=True
    )
  )
  # All pixels of the kernel side by side: the cotangent is read, and laid out, once.
  seen = [padded[:, row, column] for row in rows for column in columns]
  seen = jnp.concatenate(seen, axis=-1)
  # As matrices: XLA for CPU transposes arrays of more axes before a product of them.
  seen, cotangent = (y.reshape(-1, y.shape[-1]) for y in (seen, cotangent))
  of_kernel = jnp.matmul(seen.T, cotangent, precision=precision)
  return image, of_kernel.reshape(kernel.shape).astype(kernel.dtype)


_convolve_small.defvjp(_forward, _backward)
