"""What every encoder keeps, whatever it is made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdyn.encoders import ENCODERS
from tests.contracts.passes import (
  forward,
  random_variables,
  same_when_sharded,
  to_half,
)

BATCH, STEPS = 8, 5


def _normal(*shape):
  return jax.random.normal(jax.random.key(1), (BATCH, *shape))


def _sequence():
  length = jnp.array([5, 1, 2, 3, 4, 5, 3, 2], jnp.int32)
  return {'steps': _normal(STEPS, 3), 'length': length}


# Name in the table, options, input, width of the output.
CASES = {
  'identity': ('identity', {}, _normal(2, 3), (6,)),
  'mlp': ('mlp', {'features': 3, 'hidden': (4,), 'dropout': 0.5}, _normal(2, 3), (3,)),
  'mlp-hidden': ('mlp', {'hidden': (4,)}, _normal(5), (4,)),
  'maxout': ('maxout', {'hidden': (6,)}, _normal(5), (6,)),
  'maxout-linear': ('maxout', {'hidden': (4,), 'features': 3}, _normal(5), (3,)),
  'lenet': ('lenet', {'channels': 2, 'blocks': 1}, _normal(9, 8, 1), (16,)),
  'preact_resnet': (
    'preact_resnet',
    {'widths': (2, 4), 'blocks': (1, 2), 'groups': 2, 'pool': 3},
    _normal(7, 6, 2),
    (36,),
  ),
  'preact_resnet-linear': (
    'preact_resnet',
    {'features': 3, 'widths': (4,), 'blocks': (1,), 'groups': 1, 'pool': 2},
    _normal(5, 5, 1),
    (3,),
  ),
  'resnet': (
    'resnet',
    {'block': 'basic', 'blocks': (1, 1), 'widths': (2, 3)},
    _normal(9, 8, 1),
    (2, 1, 3),
  ),
  'pooled_resnet': (
    'pooled_resnet',
    {'blocks': (1,), 'widths': (2,), 'pool': (2, 1)},
    _normal(9, 8, 1),
    (4,),
  ),
  'pooled_resnet-linear': (
    'pooled_resnet',
    {'features': 3, 'block': 'bottleneck', 'blocks': (1,), 'widths': (2,)},
    _normal(8, 8, 2),
    (3,),
  ),
  'strided_conv': ('strided_conv', {'widths': (3,), 'size': 3}, _normal(6, 5, 2), (3,)),
  'strided_conv-linear': (
    'strided_conv',
    {'features': 2, 'widths': (3, 2), 'size': 3},
    _normal(8, 7, 1),
    (2,),
  ),
  'gru': ('gru', {'features': 4}, _sequence(), (4,)),
  'gru-flatten': (
    'gru',
    {'features': 4, 'readout': 'flatten', 'project': 2},
    _sequence(),
    (STEPS * 2,),
  ),
  'transformer': (
    'transformer',
    {'features': 4, 'blocks': 1, 'heads': 2, 'feedforward': 8, 'dropout': 0.5},
    _sequence(),
    (4,),
  ),
}
SEQUENCES = [case for case, (_, _, x, _) in CASES.items() if isinstance(x, dict)]


def _make(case):
  name, options, x, width = CASES[case]
  module = ENCODERS[name](**options)
  return module, random_variables(module, x), x, width


def test_every_encoder_has_a_case():
  assert {name for name, *_ in CASES.values()} == set(ENCODERS)


@pytest.mark.parametrize('case', CASES)
def test_evaluation_is_deterministic_and_jit_equals_eager(case):
  module, variables, x, width = _make(case)
  eager = module.apply(variables, x, train=False)
  jitted = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, x)
  assert eager.shape == (BATCH, *width)
  assert np.isfinite(eager).all()
  np.testing.assert_allclose(jitted, eager, atol=1e-5)


@pytest.mark.parametrize('case', CASES)
def test_training_is_finite_and_the_same_on_four_devices(case):
  module, variables, x, _ = _make(case)
  y, gradient, _ = same_when_sharded(module, variables, x)
  assert np.isfinite(y).all()
  for path, leaf in jax.tree.leaves_with_path(gradient):
    assert np.isfinite(leaf).all(), path
    assert np.any(leaf), path


@pytest.mark.parametrize('case', CASES)
def test_half_precision_stays_half_precision(case):
  module, variables, x, _ = _make(case)
  variables = {**variables, 'params': to_half(variables.get('params', {}))}
  y, state = jax.eval_shape(lambda v, x: forward(module, v, x), variables, to_half(x))
  assert y.dtype == jnp.bfloat16
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize('case', SEQUENCES)
def test_steps_beyond_the_length_do_not_exist(case):
  module, variables, x, _ = _make(case)

  @jax.jit
  @jax.value_and_grad
  def value_and_grad(steps):
    y = module.apply(variables, {**x, 'steps': steps}, train=False)
    return jnp.sum(jnp.sin(y))

  missing = np.arange(STEPS)[None] >= np.asarray(x['length'])[:, None]
  changed = jnp.where(missing[..., None], 99.0, x['steps'])
  value, gradient = value_and_grad(x['steps'])
  np.testing.assert_array_equal(value_and_grad(changed)[0], value)
  assert not np.asarray(gradient)[missing].any()
  assert np.asarray(gradient)[~missing].any()


def test_gru_reads_a_padded_sequence_like_the_short_one():
  module, variables, x, _ = _make('gru')
  apply = jax.jit(lambda x: module.apply(variables, x, train=False))
  rows = np.asarray(x['length']) == 3
  np.testing.assert_allclose(apply(x['steps'][rows, :3]), apply(x)[rows], atol=1e-6)


def test_gru_states_beyond_the_length_read_as_zero():
  module, variables, x, _ = _make('gru-flatten')
  flat = jax.jit(lambda x: module.apply(variables, x, train=False))(x)
  states = np.asarray(flat).reshape(BATCH, STEPS, -1)
  exists = np.arange(STEPS)[None] < np.asarray(x['length'])[:, None]
  np.testing.assert_array_equal(states.any(-1), exists)


def test_identity_can_hand_on_a_sequence():
  x = _sequence()
  assert ENCODERS['identity'](flatten=False).apply({}, x, train=False) is x


def test_lenet_refuses_an_image_that_is_too_small():
  with pytest.raises(ValueError, match='too small for blocks=3'):
    ENCODERS['lenet'](blocks=3).init(jax.random.key(0), _normal(8, 8, 1), train=False)


@pytest.mark.parametrize('options', [{'groups': 3}, {'blocks': (2, 2)}])
def test_preact_resnet_refuses_widths_that_do_not_fit(options):
  module = ENCODERS['preact_resnet'](**{'widths': (4,), 'groups': 2} | options)
  with pytest.raises(ValueError, match=r'widths=\(4,\) need one entry in blocks'):
    module.init(jax.random.key(0), _normal(5, 5, 1), train=False)


def test_transformer_refuses_heads_that_do_not_divide_its_width():
  with pytest.raises(ValueError, match='heads=5 must divide the width 4'):
    ENCODERS['transformer'](features=4).init(
      jax.random.key(0), _sequence(), train=False
    )


def test_a_sequence_encoder_refuses_vectors():
  with pytest.raises(ValueError, match=r'got shape \(8, 3\)'):
    ENCODERS['gru'](features=4).init(jax.random.key(0), _normal(3), train=False)
