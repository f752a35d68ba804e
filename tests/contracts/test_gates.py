"""What every gate keeps, whatever it is made of."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdyn.encoders.identity import Identity
from jdyn.encoders.mlp import MLP
from jdyn.gates import GATES
from jdyn.layers.transformer import Transformer

pytestmark = pytest.mark.usefixtures('compile_fast')

AXIS = 'data'
BATCH, PATHS = 8, 3
SOFT = {'gate_temperature': jnp.float32(1.0), 'gate_hard': jnp.asarray(False)}
HARD = {**SOFT, 'gate_hard': jnp.asarray(True)}


def _vectors():
  return jax.random.normal(jax.random.key(1), (BATCH, 4))


def _sequences():
  steps = jax.random.normal(jax.random.key(1), (BATCH, 3, 4))
  return {'steps': steps, 'length': jnp.array([3, 1, 2, 3, 1, 2, 3, 3], jnp.int32)}


# Name in the table, options, features.
CASES = {
  'learned': (
    'learned',
    lambda: dict(encoder=Identity(), head=MLP(PATHS, (5,))),
    _vectors,
  ),
  'learned-sequence': (
    'learned',
    lambda: dict(
      encoder=Transformer(4, blocks=1, heads=2, feedforward=6, dropout=0.2),
      head=MLP(PATHS),
    ),
    _sequences,
  ),
  'learned-gumbel': (
    'learned',
    lambda: dict(encoder=Identity(), head=MLP(PATHS), noise=True),
    _vectors,
  ),
}


@functools.cache
def _make(case, **options):
  name, fields, features = CASES[case]
  gate, features = GATES[name](**fields(), **options), features()
  init = jax.jit(lambda x: gate.init(jax.random.key(0), x, train=False, hparams=SOFT))
  return gate, init(features), features


def _apply(gate, variables, features, hparams, *, train=False, key=2):
  rngs = {name: jax.random.key(key) for name in ('gate', 'dropout')}
  return gate.apply(variables, features, train=train, hparams=hparams, rngs=rngs)


def test_every_gate_has_a_case():
  assert {name for name, *_ in CASES.values()} == set(GATES)


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('case', CASES)
def test_rows_sum_to_one_and_hard_rows_are_one_hot(case, train):
  gate, variables, features = _make(case)
  apply = jax.jit(lambda h: _apply(gate, variables, features, h, train=train))
  soft, hard = apply(SOFT), apply(HARD)
  assert soft.weights.shape == soft.logits.shape == (BATCH, PATHS)
  np.testing.assert_allclose(soft.weights.sum(-1), np.ones(BATCH), atol=1e-6)
  assert (soft.weights > 0).all()
  chosen = np.argmax(soft.weights, axis=-1)
  np.testing.assert_array_equal(hard.weights, np.eye(PATHS)[chosen])
  np.testing.assert_array_equal(hard.logits, soft.logits)


@pytest.mark.parametrize('case', CASES)
def test_the_gradient_reaches_every_parameter(case):
  gate, variables, features = _make(case)
  cotangent = jax.random.normal(jax.random.key(3), (BATCH, PATHS))

  @jax.jit
  @jax.grad
  def gradient(variables, hparams):
    gated = _apply(gate, variables, features, hparams, train=True)
    return jnp.sum(gated.weights * cotangent)

  soft, hard = gradient(variables, SOFT), gradient(variables, HARD)
  for path, leaf in jax.tree.leaves_with_path(hard):
    assert np.isfinite(leaf).all(), path
    assert np.any(leaf), path
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), hard, soft)


@pytest.mark.parametrize('case', CASES)
def test_the_temperature_is_traced(case):
  gate, variables, features = _make(case)
  traces = []

  @jax.jit
  def apply(hparams):
    traces.append(1)
    return _apply(gate, variables, features, hparams)

  for temperature in (0.1, 1.0, 10.0):
    gated = apply({**SOFT, 'gate_temperature': jnp.float32(temperature)})
    want = jax.nn.softmax(gated.logits / temperature)
    np.testing.assert_allclose(gated.weights, want, atol=1e-6)
  assert len(traces) == 1


def test_noise_is_drawn_in_training_only():
  gate, variables, features = _make('learned-gumbel')
  evaluated = [_apply(gate, variables, features, SOFT, key=k) for k in (2, 3)]
  trained = [_apply(gate, variables, features, SOFT, key=k, train=True) for k in (2, 3)]
  np.testing.assert_array_equal(evaluated[0].weights, evaluated[1].weights)
  np.testing.assert_allclose(
    evaluated[0].weights, jax.nn.softmax(evaluated[0].logits), atol=1e-6
  )
  assert (trained[0].weights != trained[1].weights).any()
  np.testing.assert_array_equal(trained[0].logits, evaluated[0].logits)


def test_gumbel_choices_follow_the_softmax_of_the_logits():
  gate, variables, features = _make('learned-gumbel')
  rows = 8192
  same = jnp.broadcast_to(features[:1], (rows, features.shape[1]))
  apply = jax.jit(lambda x: _apply(gate, variables, x, HARD, train=True))
  gated = apply(same)
  expected = np.asarray(jax.nn.softmax(gated.logits[0]))
  deviation = np.sqrt(expected * (1 - expected) / rows)
  assert (np.abs(gated.weights.mean(0) - expected) < 4 * deviation).all()


@pytest.mark.parametrize('case', CASES)
def test_noise_does_not_depend_on_the_number_of_devices(case):
  one, variables, features = _make(case)
  many, _, _ = _make(case, axis_name=AXIS)
  if isinstance(one.encoder, Transformer):
    many = many.clone(encoder=many.encoder.clone(axis_name=AXIS))
  mesh = jax.make_mesh(
    (4,), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4]
  )
  sharded = jax.shard_map(
    lambda x: _apply(many, variables, x, SOFT, train=True),
    mesh=mesh,
    in_specs=jax.sharding.PartitionSpec(AXIS),
    out_specs=jax.sharding.PartitionSpec(AXIS),
    check_vma=False,
  )
  want = jax.jit(lambda x: _apply(one, variables, x, SOFT, train=True))(features)
  got = jax.jit(sharded)(features)
  np.testing.assert_allclose(got.weights, want.weights, atol=1e-6)
