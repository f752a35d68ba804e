"""Gates in front of each stage, against a NumPy loop over the stages."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdyn import cost
from jdyn.encoders.identity import Identity
from jdyn.encoders.resnet import ResNet
from jdyn.encoders.strided_conv import StridedConv
from jdyn.evaluators.conditional import conditional
from jdyn.gates.learned import LearnedGate
from jdyn.models.esanet import ESANet
from jdyn.models.exits import POLICIES
from jdyn.models.local_gates import LocallyGatedStages
from tests.contracts.passes import random_variables

pytestmark = pytest.mark.usefixtures('compile_fast')

CLASSES = 3
SOFT = {'gate_temperature': jnp.float32(0.5), 'gate_hard': jnp.asarray(False)}
HARD = {**SOFT, 'gate_hard': jnp.asarray(True)}

# By how much each example's gates prefer to go on; the fourth row's likeliest exit is
# not where its gates send it, and the fifth's would like to come back.
MARGINS = np.array(
  [
    [-0.5, 0.4, 0.3],
    [0.6, -0.3, -0.9],
    [0.3, 0.8, -0.2],
    [0.1, 0.2, 0.1],
    [0.9, -0.8, 2.0],
    [1.1, 0.7, 0.5],
  ]
)
EXITS = [0, 1, 2, 3, 1, 3]
BATCH, STAGES = MARGINS.shape
PATHS = [f'exit_{k}' for k in range(STAGES + 1)]


@functools.cache
def _images():
  draw = np.random.default_rng(1).normal
  return {
    name: jnp.asarray(draw(size=(BATCH, 16, 32, channels)), jnp.float32)
    for name, channels in (('rgb', 3), ('depth', 1))
  }


def _model(gates=STAGES, noise=False, **options):
  """Gates that are linear in the channels' means."""
  encoders = {name: ResNet('basic', (1,) * 3, (6, 7, 8)) for name in ('depth', 'rgb')}
  network = ESANet(encoders, CLASSES, bins=(), widths=(6, 4), blocks=(1, 1))
  gate = [LearnedGate(StridedConv(2, ()), Identity(), noise) for _ in range(gates)]
  return LocallyGatedStages(network, gate, **options)


@functools.cache
def _part(method, *args):
  """A compiled method of the model, of variables and arrays."""
  model = _model()
  return jax.jit(
    lambda variables, *x: model.apply(variables, *args, *x, train=False, method=method)
  )


def _softmax(z):
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def _kernel(variables, stage):
  return variables['params'][f'gate_{stage - 1}']['encoder']['out']


def _loop(variables, hparams, calibrate=False):
  """What the gates say, stage by stage, and the logits of what comes of it.

  To calibrate is to give each gate the kernel with which it says what `MARGINS` does.
  """
  maps = _part('stem')(variables, _images())
  alive, weights, logs, log_alive, found = np.ones(BATCH), [], [], 0.0, []
  for stage in range(1, STAGES + 1):
    seen = np.concatenate(maps, axis=-1).astype(np.float64).mean(axis=(1, 2))
    if calibrate:
      to_go = np.linalg.pinv(seen) @ MARGINS[:, stage - 1]
      _kernel(variables, stage)['kernel'] = jnp.float32(np.stack([0 * to_go, to_go], 1))
    logits = seen @ np.asarray(_kernel(variables, stage)['kernel'], np.float64)
    log = np.log(_softmax(logits))
    decided = _softmax(logits / hparams['gate_temperature'])
    if hparams['gate_hard']:
      decided = np.eye(2)[decided.argmax(-1)]
    weights.append(alive * decided[:, 0])
    logs.append(log_alive + log[:, 0])
    alive, log_alive = alive * decided[:, 1], log_alive + log[:, 1]
    main = _part('advance', stage)(variables, maps[0])
    fused, side = _part('join', stage)(variables, main, maps[1])
    share = alive[:, None, None, None]
    maps = np.float32((1 - share) * main + share * fused), side
    found.append(maps[0])
  logits = _part('head')(variables, found).logits
  return logits, np.stack([*weights, alive], -1), np.stack([*logs, log_alive], -1)


class _Called:
  """A model as what draws its variables calls it."""

  def __init__(self, model):
    self._model = model

  def init(self, key, x, *, train):
    """The model's variables."""
    return self._model.init(key, x, train=train, hparams=SOFT)


@functools.cache
def _variables():
  variables = random_variables(_Called(_model()), _images())
  _loop(variables, HARD, calibrate=True)
  return variables


@functools.cache
def _forward():
  return jax.jit(lambda v, hparams: _apply(_model(), v, hparams))


def _apply(model, variables, hparams):
  return model.apply(variables, _images(), train=False, hparams=hparams)


def _weights(outputs):
  return np.stack([outputs.weights[path] for path in PATHS], axis=-1)


@pytest.mark.parametrize('hparams', [SOFT, HARD], ids=['soft', 'hard'])
def test_the_walk_is_that_of_a_loop(hparams):
  outputs = _forward()(_variables(), hparams)
  logits, weights, logs = _loop(_variables(), hparams)
  np.testing.assert_allclose(_weights(outputs), weights, atol=1e-5)
  np.testing.assert_allclose(outputs.aux['gate_logits'], logs, atol=1e-4)
  np.testing.assert_allclose(outputs.logits, logits, atol=1e-4)
  np.testing.assert_allclose(_weights(outputs).sum(-1), 1, atol=1e-6)
  np.testing.assert_allclose(np.exp(outputs.aux['gate_logits']).sum(-1), 1, atol=1e-5)


def test_a_hard_gate_gives_what_each_exit_alone_computes():
  outputs = _forward()(_variables(), HARD)
  np.testing.assert_array_equal(_weights(outputs), np.eye(STAGES + 1)[EXITS])
  # Greedily, so that an example may end elsewhere than the odds of all exits say.
  assert outputs.aux['gate_logits'][3].argmax() != EXITS[3]
  maps = _part('stem')(_variables(), _images())
  alone = np.stack(
    [_part('exit', k)(_variables(), maps).logits for k in range(STAGES + 1)]
  )
  assert len({row.tobytes() for row in alone}) == STAGES + 1
  want = alone[EXITS, np.arange(BATCH)]
  np.testing.assert_allclose(outputs.logits, want, atol=1e-5)
  model = _model().clone(policy='exit_1')
  one = jax.jit(lambda v: _apply(model, v, HARD))(_variables())
  np.testing.assert_allclose(one.logits, alone[1], atol=1e-5)


def _train(model):
  def run(params, hparams, key):
    return model.apply(
      {**_variables(), 'params': params},
      _images(),
      train=True,
      hparams=hparams,
      rngs={'gate': key},
      mutable=['batch_stats'],
    )[0]

  return run


def test_every_gate_learns_and_noise_is_drawn_in_training_alone():
  model, params = _model(noise=True), _variables()['params']

  @jax.jit
  @functools.partial(jax.grad, has_aux=True)
  def gradient(params, hparams, key):
    outputs = _train(model)(params, hparams, key)
    return jnp.sum(jnp.sin(outputs.logits)), outputs

  for hparams in (SOFT, HARD):
    found, _ = gradient(params, hparams, jax.random.key(0))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    for stage in range(STAGES):
      assert np.any(found[f'gate_{stage}']['encoder']['out']['kernel'])
  chosen = [
    _weights(gradient(params, HARD, jax.random.key(i))[1]).tobytes() for i in range(4)
  ]
  assert len(set(chosen)) > 1
  assert all(np.frombuffer(one, np.float32).sum() == BATCH for one in chosen)
  quiet = jax.jit(lambda v: _apply(model, v, HARD))(_variables())
  np.testing.assert_array_equal(_weights(quiet), np.eye(STAGES + 1)[EXITS])


def test_an_exit_costs_the_gates_on_its_way():
  model = _model()

  def macs(method, *args):
    def run(variables, images):
      return model.apply(
        variables, *args, images, train=False, hparams=HARD, method=method
      )

    return cost.count_macs(run, _variables(), _images())

  def alone(k):
    def run(variables, images):
      maps = model.apply(variables, images, train=False, method='stem')
      return model.apply(variables, k, maps, train=False, method='exit')

    return cost.count_macs(run, _variables(), _images())

  gates = [BATCH * 2 * 2 * width for width in (6, 6, 7)]
  for k, path in enumerate(model.paths):
    assert macs('follow', path) == alone(k) + sum(gates[: k + 1])


def test_variables_are_those_of_every_policy():
  def shapes(model):
    return jax.eval_shape(
      lambda: _Called(model).init(jax.random.key(0), _images(), train=False)
    )

  found = [shapes(_model(policy=policy)) for policy in (*POLICIES, 'exit_0')]
  assert all(each == found[0] for each in found)
  with pytest.raises(ValueError, match="policy='first'; expected one of"):
    shapes(_model(policy='first'))
  with pytest.raises(ValueError, match='gate has 2 gates; give one for each of the'):
    shapes(_model(gates=2))


@functools.cache
def _dispatcher():
  return conditional(_model(), np.arange(1.0, STAGES + 2))


@pytest.mark.parametrize('policy', ['dense', 'ladder', 'buckets', 'each', 'switch'])
def test_what_is_conditionally_executed_equals_the_hard_forward(policy):
  expected = _forward()(_variables(), HARD)
  rows = [4] if policy == 'switch' else range(BATCH)
  images = {name: x[np.array(rows)] for name, x in _images().items()}
  model = (_variables(), HARD)
  chosen, shared, logits = _dispatcher()(model, images, None, policy)
  assert chosen.tolist() == [EXITS[row] for row in rows]
  np.testing.assert_allclose(logits, expected.logits[np.array(rows)], atol=1e-5)
  assert shared['logits'] == {}
  for row, told in zip(rows, shared['gate_logits'], strict=True):
    # The row's own gates up to its exit, and even odds behind it.
    asked = np.where(np.arange(STAGES) <= EXITS[row], MARGINS[row], 0)
    end = -np.log1p(np.exp(asked))
    on = np.cumsum(np.append(0, asked + end))
    np.testing.assert_allclose(told, on + np.append(end, 0), atol=1e-4)
  with pytest.raises(ValueError, match='budget: local gates decide stage by stage'):
    _dispatcher()(model, images, (None, 1.0), policy)


def test_a_policy_that_asks_no_gate_is_executed_too():
  model = _model(policy='random')
  dispatcher = conditional(model, np.arange(1.0, STAGES + 2))
  chosen, _, _ = dispatcher((_variables(), HARD), _images(), None, 'buckets')
  assert chosen.tolist() == [0, 1, 2, 3, 0, 1]
