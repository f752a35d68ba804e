import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdyn.layers.batch_norm import BatchNorm

SCALE, BIAS = np.float32([2, -1, 0.5]), np.float32([0.1, 0.2, 0.3])
MEAN, VAR = np.float32([1, 2, 3]), np.float32([4, 5, 6])
VARIABLES = {
  'params': {'scale': SCALE, 'bias': BIAS},
  'batch_stats': {'mean': MEAN, 'var': VAR},
}
X = np.random.default_rng(0).normal(1000, 2, (4, 5, 3)).astype(np.float32)


def test_training_normalises_biased_and_remembers_unbiased():
  y, state = BatchNorm(epsilon=1e-4).apply(
    VARIABLES, X, train=True, mutable=['batch_stats']
  )
  exact = X.astype(np.float64)
  mean, var = exact.mean((0, 1)), exact.var((0, 1))
  want = (exact - mean) / np.sqrt(var + 1e-4) * SCALE + BIAS
  np.testing.assert_allclose(y, want, atol=1e-3)  # float32 at 1000 has 6e-5
  stats = state['batch_stats']
  np.testing.assert_allclose(stats['mean'], 0.9 * MEAN + 0.1 * mean, rtol=1e-6)
  np.testing.assert_allclose(stats['var'], 0.9 * VAR + 0.1 * var * 20 / 19, rtol=1e-4)


def test_evaluation_uses_the_running_statistics():
  y = BatchNorm().apply(VARIABLES, X, train=False)
  want = (X - MEAN) / np.sqrt(VAR + 1e-5) * SCALE + BIAS
  np.testing.assert_allclose(y, want, rtol=1e-5)


def test_half_precision_in_and_out_with_full_statistics():
  x = jnp.asarray(X[0] - 1000, jnp.bfloat16)
  y, state = BatchNorm().apply(VARIABLES, x, train=True, mutable=['batch_stats'])
  assert y.dtype == jnp.bfloat16
  assert state['batch_stats']['var'].dtype == jnp.float32
  mean = np.asarray(x, np.float64).mean(0)
  np.testing.assert_allclose(
    state['batch_stats']['mean'], 0.9 * MEAN + 0.1 * mean, rtol=1e-5
  )


def test_initialisation_leaves_the_statistics():
  variables = BatchNorm(axis_name='data').init(jax.random.key(0), X, train=True)
  np.testing.assert_array_equal(variables['batch_stats']['mean'], np.zeros(3))
  np.testing.assert_array_equal(variables['batch_stats']['var'], np.ones(3))


def test_one_example_cannot_be_trained_on():
  with pytest.raises(ValueError, match='got 1 value per feature'):
    BatchNorm().apply(VARIABLES, X[0, :1], train=True, mutable=['batch_stats'])
