"""The estimate of the Jacobian's size against the Jacobian itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdyn.ops.jacobian import squared_norm

pytestmark = pytest.mark.usefixtures('compile_fast')

MATRIX = np.float32([[1.0, -2.0, 0.5], [0.3, 0.7, -1.0], [2.0, 0.1, 0.4]])
Z = np.float32([[0.1, -0.4, 0.7], [1.0, 0.2, -0.3]])


def f(z, matrix=MATRIX):
  return jnp.tanh(z @ matrix)


def exact(z):
  """`|J|_F^2 / N` of each example."""
  return np.array([np.square(jax.jacobian(f)(row)).sum() / row.size for row in z])


def test_probes_along_all_axes_give_it_exactly():
  probes = np.sqrt(3) * np.broadcast_to(np.eye(3)[:, None], (3, 2, 3))
  got = squared_norm(f, jnp.asarray(Z), probes.astype(np.float32))
  np.testing.assert_allclose(got, exact(Z), rtol=1e-5)


def test_random_probes_give_it_on_average_whatever_the_shape():
  probes = jax.random.normal(jax.random.key(0), (4000, 2, 3, 1))
  flat = lambda z: f(z[..., 0])[..., None]  # noqa: E731
  got = squared_norm(flat, jnp.asarray(Z)[..., None], probes)
  np.testing.assert_allclose(got, exact(Z), rtol=0.05)


def test_gradients_reach_the_map_and_not_the_point():
  probes = jax.random.normal(jax.random.key(0), (2, 2, 3))

  def size(z, matrix):
    return jnp.sum(squared_norm(lambda z: f(z, matrix), z, probes))

  of_z, of_matrix = jax.grad(size, (0, 1))(jnp.asarray(Z), jnp.asarray(MATRIX))
  np.testing.assert_array_equal(of_z, np.zeros_like(Z))
  step = np.zeros_like(MATRIX)
  step[1, 2] = 1e-2
  change = (size(Z, MATRIX + step) - size(Z, MATRIX - step)) / 2e-2
  np.testing.assert_allclose(of_matrix[1, 2], change, rtol=1e-2)
