"""Update rules against torch's formulas in NumPy, and schedules against their ends."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jdyn.optimizer import make_optimizer, make_schedule, one_cycle

STEPS, DECAY, MOMENTUM, CLIP = 6, 0.1, 0.9, 1.5
EPSILON = 1e-8


def _learning_rate(step):
  return 0.05 / (1 + step)


def _adam_direction(gradient, memory, step):
  memory['m'] = 0.9 * memory.get('m', 0) + 0.1 * gradient
  memory['v'] = 0.999 * memory.get('v', 0) + 0.001 * gradient**2
  m, v = memory['m'] / (1 - 0.9**step), memory['v'] / (1 - 0.999**step)
  return m / (np.sqrt(v) + EPSILON)


def _adamw(p, g, memory, step, rate):
  return p * (1 - rate * DECAY) - rate * _adam_direction(g, memory, step)


def _adam(p, g, memory, step, rate):
  return p - rate * _adam_direction(g + DECAY * p, memory, step)


def _sgd(p, g, memory, step, rate):
  del step
  memory['buffer'] = MOMENTUM * memory.get('buffer', 0) + g + DECAY * p
  return p - rate * memory['buffer']


def _rmsprop(p, g, memory, step, rate):
  del step
  g = g + DECAY * p
  memory['square'] = 0.99 * memory.get('square', 0) + 0.01 * g**2
  return p - rate * g / (np.sqrt(memory['square']) + EPSILON)


RULES = {
  'adamw': (_adamw, 0.0),
  'adam': (_adam, 0.0),
  'sgd': (_sgd, MOMENTUM),
  'rmsprop': (_rmsprop, 0.0),
}


def _gradients():
  """Of two parameters; some are beyond the bound and some are not."""
  rng = np.random.default_rng(0)
  for step in range(STEPS):
    scale = (0.2, 3.0)[step % 2]
    yield {
      'a': scale * rng.standard_normal(3),
      'b': scale * rng.standard_normal((2, 2)),
    }


@pytest.mark.parametrize('name', RULES)
def test_the_update_rules_are_those_of_torch(name):
  rule, momentum = RULES[name]
  tx = make_optimizer(
    name, _learning_rate, weight_decay=DECAY, momentum=momentum, clip_norm=CLIP
  )
  want = {'a': np.array([1.0, -2.0, 0.5]), 'b': np.ones((2, 2))}
  params = jax.tree.map(jnp.float32, want)
  state, memory = tx.init(params), {'a': {}, 'b': {}}
  for step, gradients in enumerate(_gradients()):
    updates, state = tx.update(jax.tree.map(jnp.float32, gradients), state, params)
    params = optax.apply_updates(params, updates)
    norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
    factor = min(1.0, CLIP / norm)
    for key, gradient in gradients.items():
      rate = _learning_rate(step)
      want[key] = rule(want[key], factor * gradient, memory[key], step + 1, rate)
  for key, value in want.items():
    np.testing.assert_allclose(params[key], value, rtol=1e-5, atol=1e-6)


def test_momentum_of_rmsprop_accumulates_updates_as_in_torch():
  tx = make_optimizer('rmsprop', lambda step: 0.1, momentum=MOMENTUM)
  params = {'a': jnp.ones(2)}
  state, square, buffer, want = tx.init(params), 0.0, 0.0, np.ones(2)
  for gradient in (np.array([1.0, -2.0]), np.array([0.5, 3.0])):
    updates, state = tx.update({'a': jnp.float32(gradient)}, state, params)
    params = optax.apply_updates(params, updates)
    square = 0.99 * square + 0.01 * gradient**2
    buffer = MOMENTUM * buffer + gradient / (np.sqrt(square) + EPSILON)
    want = want - 0.1 * buffer
  np.testing.assert_allclose(params['a'], want, rtol=1e-5)


def _expert_step(scale, clip=0.0):
  tx = make_optimizer(
    'sgd', lambda step: 1.0, weight_decay=DECAY, clip_norm=clip, expert_scale=scale
  )
  params = {'experts_text': {'w': jnp.ones(2)}, 'gate': {'w': jnp.ones(2)}}
  gradients = {'experts_text': {'w': jnp.full(2, 40.0)}, 'gate': {'w': jnp.ones(2)}}
  updates, _ = tx.update(gradients, tx.init(params), params)
  return updates['experts_text']['w'][0], updates['gate']['w'][0]


@pytest.mark.parametrize('scale', [1.0, 0.25, 0.0])
def test_experts_move_by_their_factor_and_the_gate_by_its_own(scale):
  expert, gate = _expert_step(scale)
  np.testing.assert_allclose(expert, -scale * (40 + DECAY), rtol=1e-6)
  np.testing.assert_allclose(gate, -(1 + DECAY), rtol=1e-6)


def test_fixed_experts_do_not_count_for_clipping():
  """As in torch, where parameters without a gradient are not in the norm."""
  expert, gate = _expert_step(0.0, clip=8.0)
  assert expert == 0
  np.testing.assert_allclose(gate, -(1 + DECAY), rtol=1e-6)


def test_fixed_modules_neither_move_nor_count():
  tx = make_optimizer(
    'sgd', lambda step: 1.0, weight_decay=DECAY, clip_norm=8.0, fixed=('network',)
  )
  params = {'network': jnp.ones(2), 'gate': jnp.ones(2)}
  gradients = {'network': jnp.full(2, 40.0), 'gate': jnp.ones(2)}
  updates, _ = tx.update(gradients, tx.init(params), params)
  assert not updates['network'].any()
  np.testing.assert_allclose(updates['gate'], -(1 + DECAY), rtol=1e-6)


def test_nesterov_and_a_momentum_that_varies_are_those_of_torch():
  def momentum(step):
    return 0.9 - 0.1 * step

  tx = make_optimizer('sgd', _learning_rate, momentum=momentum, nesterov=True)
  params = {'a': jnp.ones(2)}
  state, buffer, want = tx.init(params), 0.0, np.ones(2)
  for step, gradient in enumerate(np.random.default_rng(0).normal(size=(4, 2))):
    updates, state = tx.update({'a': jnp.float32(gradient)}, state, params)
    params = optax.apply_updates(params, updates)
    buffer = momentum(step) * buffer + gradient
    want = want - _learning_rate(step) * (gradient + momentum(step) * buffer)
  np.testing.assert_allclose(params['a'], want, rtol=1e-5)


def test_one_cycle_is_that_of_torch():
  """Values of torch 2.13's OneCycleLR for 500 epochs, stepped once per epoch."""
  rate = one_cycle(4e-4, 0.01, 4e-8, epochs=500, steps_per_epoch=3)
  want = {
    0: 4e-4,
    10: 1.353e-3,
    25: 5.354e-3,
    49: 0.01,
    100: 9.686e-3,
    200: 7.470e-3,
    300: 4.097e-3,
    400: 1.147e-3,
    499: 4e-8,
  }
  for epoch, value in want.items():
    for step in (3 * epoch, 3 * epoch + 2):
      assert float(rate(step)) == pytest.approx(value, rel=1e-3, abs=1e-9), epoch
  momentum = one_cycle(0.95, 0.85, 0.95, epochs=500, steps_per_epoch=3)
  found = [float(momentum(3 * epoch)) for epoch in (0, 49, 499, 600)]
  assert found == pytest.approx([0.95, 0.85, 0.95, 0.95])
  short = one_cycle(1.0, 5.0, 2.0, epochs=3, steps_per_epoch=1)
  assert [float(short(step)) for step in (0, 2, 9)] == pytest.approx([5.0, 2.0, 2.0])


def test_only_sgd_varies_its_momentum():
  with pytest.raises(ValueError, match="'rmsprop' takes a constant momentum"):
    make_optimizer('rmsprop', lambda step: 1.0, momentum=lambda step: 0.9)


def test_unknown_optimizers_are_refused():
  with pytest.raises(ValueError, match="Unknown optimizer 'lion'; expected one of"):
    make_optimizer('lion', lambda step: 1.0)


@pytest.mark.parametrize('warmup', [0, 4])
@pytest.mark.parametrize(
  ('name', 'middle'),
  [
    ('constant', 8.0),
    ('linear', 5.0),
    ('exponential', 4.0),
    ('cosine', 5.0),
  ],
)
def test_schedules_go_from_init_to_end_and_stay(name, middle, warmup):
  end = 8.0 if name == 'constant' else 2.0
  schedule = make_schedule(name, 8.0, 2.0, steps=10, warmup_steps=warmup)
  values = [float(schedule(jnp.asarray(warmup + step))) for step in (0, 5, 10, 99)]
  np.testing.assert_allclose(values, [8.0, middle, end, end], rtol=1e-6)
  if warmup:
    rising = [float(schedule(jnp.asarray(step))) for step in range(warmup)]
    np.testing.assert_allclose(rising, [0.0, 2.0, 4.0, 6.0], rtol=1e-6)


def test_a_staircase_steps_by_the_same_factor_again_and_again():
  schedule = make_schedule('staircase', 8.0, 2.0, steps=10, warmup_steps=2)
  steps = np.array([0, 2, 11, 12, 21, 22, 32])
  values = [float(schedule(jnp.asarray(step))) for step in steps]
  np.testing.assert_allclose(values, [0.0, 8.0, 8.0, 2.0, 2.0, 0.5, 0.125], rtol=1e-6)


def test_impossible_schedules_are_refused():
  with pytest.raises(ValueError, match="Unknown schedule 'step'"):
    make_schedule('step', 1.0, 1.0, 10)
  with pytest.raises(ValueError, match='needs positive values'):
    make_schedule('exponential', 1.0, 0.0, 10)
