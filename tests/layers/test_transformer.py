import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jdyn.layers.transformer import Transformer
from tests.contracts.passes import random_variables

LENGTH = jnp.array([4, 1, 3], jnp.int32)
STEPS = jax.random.normal(jax.random.key(1), (3, 4, 3))
MODEL = Transformer(features=4, blocks=2, heads=2, feedforward=8)
VARIABLES = random_variables(MODEL, STEPS)


def test_reading_one_step_equals_computing_all_of_them():
  """Values and gradients; the last block is only computed where it is read."""
  everything = dataclasses.replace(MODEL, readout='steps')

  def last(variables, steps):
    return MODEL.apply(variables, {'steps': steps, 'length': LENGTH}, train=False)

  def read(variables, steps):
    x = {'steps': steps, 'length': LENGTH}
    y = everything.apply(variables, x, train=False)
    return jnp.stack([y[b, n - 1] for b, n in enumerate(LENGTH)])

  @jax.jit
  def both(variables, steps):
    def run(function):
      values, vjp = jax.vjp(function, variables, steps)
      return values, vjp(jnp.cos(jnp.arange(12.0)).reshape(3, 4))

    return run(last), run(read)

  got, want = both(VARIABLES, STEPS)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), got, want)


def test_padding_and_the_order_of_the_steps_are_no_matter():
  """A padded sequence reads like the short one, and only the last step has a place."""
  apply = jax.jit(lambda x: MODEL.apply(VARIABLES, x, train=False))
  padded = apply({'steps': STEPS, 'length': LENGTH})
  np.testing.assert_allclose(apply(STEPS[1:2, :1])[0], padded[1], atol=2e-6)
  np.testing.assert_allclose(apply(STEPS[2:3, :3])[0], padded[2], atol=2e-6)
  moved = STEPS[2:3, jnp.array([1, 0, 2])]
  np.testing.assert_allclose(apply(moved)[0], padded[2], atol=2e-6)
