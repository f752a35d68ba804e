"""What the compiler must not break in `LeNet`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdyn.encoders.lenet import LeNet
from tests.contracts.passes import random_variables


@pytest.fixture(autouse=True)
def _double():
  with jax.enable_x64(True):
    yield


def test_compiled_gradients_are_the_slopes_of_the_compiled_loss():
  """Max-pooling behind a normalisation, which XLA computes twice."""
  module = LeNet(channels=192, blocks=0)
  random = np.random.default_rng(0)
  x, readout = random.standard_normal((4, 3, 3, 24)), random.standard_normal((192, 10))
  variables = random_variables(module, x)
  way = jax.tree.map(lambda p: random.standard_normal(p.shape), variables['params'])

  def loss(step):
    moved = jax.tree.map(lambda p, w: p + step * w, variables['params'], way)
    y, _ = module.apply(
      {**variables, 'params': moved}, x, train=True, mutable=['batch_stats']
    )
    return jnp.mean(jax.nn.logsumexp(y @ readout, axis=-1))

  value, slope = jax.jit(loss), jax.jit(jax.grad(loss))(0.0)
  measured = (value(1e-6) - value(-1e-6)) / 2e-6
  np.testing.assert_allclose(slope, measured, rtol=1e-4)
