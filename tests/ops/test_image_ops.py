"""Convolution, pooling and resizing against loops over pixels and against XLA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jdyn.ops import resize
from jdyn.ops.convolution import convolve
from jdyn.ops.pooling import adaptive_average_pool, max_pool

pytestmark = pytest.mark.usefixtures('compile_fast')

SIZES = [(4, 6), (7, 5), (1, 2), (8, 1)]


def _image(*shape):
  return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


@pytest.mark.parametrize('size', SIZES)
def test_max_pool(size):
  x = _image(2, *size, 3)

  def by_xla(x):
    pads = ((0, 0), (1, 1), (1, 1), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), pads)

  weights = _image(*by_xla(x).shape)
  for pool in (max_pool, by_xla):
    value, gradient = jax.value_and_grad(lambda x, f=pool: jnp.sum(f(x) * weights))(x)
    if pool is max_pool:
      want = value, gradient
  np.testing.assert_array_equal(max_pool(x), by_xla(x))
  np.testing.assert_allclose(value, want[0], rtol=1e-6)
  np.testing.assert_allclose(gradient, want[1], atol=1e-6)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('cells', [(1, 1), (2, 3), (5, 5)])
def test_adaptive_average_pool(size, cells):
  x = np.asarray(_image(2, *size, 3))
  want = np.empty((2, *cells, 3), np.float32)
  for i in range(cells[0]):
    for j in range(cells[1]):
      (top, bottom), (left, right) = (
        (k * n // c, -(-(k + 1) * n // c))
        for k, n, c in zip((i, j), size, cells, strict=True)
      )
      want[:, i, j] = x[:, top:bottom, left:right].mean((1, 2))
  np.testing.assert_allclose(adaptive_average_pool(x, cells), want, atol=1e-6)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('new', [(8, 12), (3, 9), (5, 5)])
def test_nearest(size, new):
  x = np.asarray(_image(2, *size, 3))
  rows, columns = (np.arange(n) * old // n for n, old in zip(new, size, strict=True))
  np.testing.assert_array_equal(resize.nearest(x, new), x[:, rows][:, :, columns])


@pytest.mark.parametrize('window', [(3, 1), (1, 1), (5, 1), (1, 3), (3, 3), (5, 4)])
@pytest.mark.parametrize('strides', [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize('features', [4, 12])
def test_convolution_and_gradients(window, strides, features):
  x, kernel = _image(2, 7, 6, 3), _image(*window, 3, features)
  padding = [(side // 2, side // 2) for side in window]
  numbers = ('NHWC', 'HWIO', 'NHWC')

  def by_xla(x, kernel):
    return lax.conv_general_dilated(
      x, kernel, strides, padding, dimension_numbers=numbers
    )

  def ours(x, kernel):
    return convolve(x, kernel, strides, padding, dimension_numbers=numbers)

  weights = _image(*by_xla(x, kernel).shape)

  def gradients(f):
    return jax.grad(lambda *args: jnp.sum(jnp.sin(f(*args)) * weights), (0, 1))

  np.testing.assert_allclose(ours(x, kernel), by_xla(x, kernel), rtol=1e-5, atol=3e-5)
  for got, want in zip(
    gradients(ours)(x, kernel), gradients(by_xla)(x, kernel), strict=True
  ):
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=3e-5)


@pytest.mark.skipif(jax.default_backend() != 'cpu', reason='of XLA for CPU')
def test_gradients_of_small_kernels_keep_one_image_for_each():
  """The three shifted images that a product takes are not there until it is due."""
  image = jnp.ones((2, 16, 16, 8))

  def kept(count):
    def loss(kernels):
      y = image
      for kernel in kernels:
        y = jnp.tanh(
          convolve(
            y,
            kernel,
            (1, 1),
            ((1, 1), (0, 0)),
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
          )
        )
      return y.sum()

    compiled = jax.jit(jax.grad(loss)).lower([jnp.ones((3, 1, 8, 8))] * count).compile()
    return compiled.memory_analysis().temp_size_in_bytes / image.nbytes

  assert kept(9) - kept(5) <= 1.2 * 4


def test_convolution_of_half_precision_stays_half():
  x, kernel = (y.astype(jnp.bfloat16) for y in (_image(1, 4, 4, 2), _image(3, 1, 2, 2)))
  gradients = jax.grad(
    lambda *args: convolve(*args, (1, 1), [(1, 1), (0, 0)]).sum(), (0, 1)
  )(x, kernel)
  assert {g.dtype for g in gradients} == {jnp.dtype(jnp.bfloat16)}
