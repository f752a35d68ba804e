"""Soft and hard weights, their gradient, and the distribution under Gumbel noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdyn.ops.random import row_keys
from jdyn.ops.straight_through import straight_through

TEMPERATURES = (0.3, 1.0, 4.0)
PATHS = 5
LOGITS = 3 * jax.random.normal(jax.random.key(0), (256, PATHS))


def _softmax(logits, temperature):
  z = np.asarray(logits, np.float64) / temperature
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize('temperature', TEMPERATURES)
def test_soft_weights_are_the_softmax(temperature):
  weights = straight_through(LOGITS, temperature=temperature, hard=False)
  np.testing.assert_allclose(weights, _softmax(LOGITS, temperature), atol=1e-6)


@pytest.mark.parametrize('jit', [False, True])
@pytest.mark.parametrize('temperature', TEMPERATURES)
def test_hard_rows_are_exactly_one_hot(temperature, jit):
  fn = jax.jit(straight_through) if jit else straight_through
  weights = fn(LOGITS, temperature=temperature, hard=True)
  np.testing.assert_array_equal(weights, np.eye(PATHS)[np.argmax(LOGITS, axis=-1)])


@pytest.mark.parametrize('hard', [False, True])
@pytest.mark.parametrize('temperature', TEMPERATURES)
def test_the_gradient_is_that_of_the_softmax(temperature, hard):
  cotangent = np.asarray(jax.random.normal(jax.random.key(1), LOGITS.shape))

  @jax.jit
  @jax.grad
  def gradient(logits):
    weights = straight_through(logits, temperature=temperature, hard=hard)
    return jnp.sum(weights * cotangent)

  soft = _softmax(LOGITS, temperature)
  inner = np.sum(soft * cotangent, axis=-1, keepdims=True)
  np.testing.assert_allclose(
    gradient(LOGITS), soft * (cotangent - inner) / temperature, atol=2e-6
  )


def test_annealing_and_hardening_do_not_recompile():
  traces = []

  @jax.jit
  def fn(logits, temperature, hard):
    traces.append(1)
    return straight_through(logits, temperature=temperature, hard=hard)

  for temperature in TEMPERATURES:
    for hard in (False, True):
      fn(LOGITS, jnp.float32(temperature), jnp.asarray(hard))
  assert len(traces) == 1


@pytest.mark.parametrize('temperature', [0.5, 2.0])
def test_gumbel_choices_follow_the_softmax_of_the_logits(temperature):
  """The Gumbel-max trick; the temperature does not change who wins."""
  draws, logits = 20_000, jnp.array([1.0, 0.0, -1.0, 0.5, -3.0])
  keys = row_keys(jax.random.key(5), draws)
  noise = jax.vmap(lambda key: jax.random.gumbel(key, (PATHS,)))(keys)
  weights = straight_through(
    jnp.broadcast_to(logits, (draws, PATHS)), temperature=temperature, noise=noise
  )
  expected = _softmax(logits, 1.0)
  deviation = np.sqrt(expected * (1 - expected) / draws)
  assert (np.abs(weights.mean(0) - expected) < 4 * deviation).all()
