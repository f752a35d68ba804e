"""What every loss term keeps, and what each is."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jdyn.losses import LOSSES
from jdyn.tasks import TASKS
from jdyn.typing import Outputs

pytestmark = pytest.mark.usefixtures('compile_fast')

BATCH, CLASSES, PATHS = 6, 3, ('cheap', 'middle', 'dear')
TASK = TASKS['multiclass'](num_outputs=CLASSES)
COSTS = (0.25, 0.5, 1.0)
FACTORS = {'middle': 2.25, 'dear': 0.0}
FACTOR = {'cheap': 1.0, **FACTORS}

TERMS = {
  'balance': lambda: LOSSES['balance'](PATHS),
  'budget': lambda: LOSSES['budget'](PATHS, COSTS),
  'confidence': lambda: LOSSES['confidence'](TASK, FACTORS),
  'evidential': lambda: LOSSES['evidential'](TASK),
  'informativeness': lambda: LOSSES['informativeness'](FACTORS),
  'jacobian': lambda: LOSSES['jacobian'](),
  'per_expert': lambda: LOSSES['per_expert'](TASK, FACTORS),
  'rank': lambda: LOSSES['rank'](TASK, PATHS),
  'supervised': lambda: LOSSES['supervised'](TASK),
}
HPARAMS = {'evidential_annealing': 0.5}


def _weights(rows):
  return jax.nn.softmax(jax.random.normal(jax.random.key(1), (rows, len(PATHS))))


def _outputs(rows=BATCH, weights=None):
  weights = _weights(rows) if weights is None else jnp.asarray(weights, jnp.float32)
  keys = jax.random.split(jax.random.key(2), len(PATHS) + 1)
  logits = [jax.random.normal(key, (rows, CLASSES)) for key in keys]
  return Outputs(
    logits=logits[0],
    unimodal=dict(zip(PATHS, logits[1:], strict=True)),
    weights={path: weights[:, k] for k, path in enumerate(PATHS)},
    aux={
      f'informativeness/{path}': jax.nn.sigmoid(logits[k][:, 0])
      for k, path in enumerate(PATHS)
    }
    | {f'confidence/{path}': weights[:, k] for k, path in enumerate(PATHS)}
    | {'evidence/vacuity': weights[:, 0]}
    | {
      name: jnp.square(logits[0][:, k])
      for k, name in enumerate(('jacobian', 'dear/jacobian', 'jacobian/other'))
    },
  )


def _batch(rows=BATCH, real=None):
  return {
    'label': np.arange(rows) % CLASSES,
    'mask': (np.arange(rows) < (rows if real is None else real)).astype(np.float32),
    'index': np.arange(rows),
  }


def _value(name, outputs, batch):
  term = TERMS[name]()
  mean, memory = term.apply(outputs, batch, HPARAMS, term.init(rows := 10), None)
  assert jax.tree.structure(memory) == jax.tree.structure(term.init(rows))
  return mean


def test_every_loss_has_a_case():
  # That of maps has tests/losses/test_side_outputs.py.
  assert {*TERMS, 'side_outputs'} == set(LOSSES)


@pytest.mark.parametrize('name', TERMS)
def test_padding_changes_neither_value_nor_gradient(name):
  padded, real = _outputs(BATCH), 4
  short = jax.tree.map(lambda x: x[:real], padded)
  garbage = jax.tree.map(lambda x: x.at[real:].set(7.0), padded)

  def run(outputs, batch):
    mean = _value(name, outputs, batch)
    return mean.compute(), mean

  run = jax.jit(jax.value_and_grad(run, has_aux=True))
  (value, mean), gradient = run(garbage, _batch(BATCH, real))
  (want, want_mean), want_gradient = run(short, _batch(real))
  np.testing.assert_allclose(value, want, rtol=1e-6)
  assert mean.count == want_mean.count == real
  for got, expected in zip(
    jax.tree.leaves(gradient), jax.tree.leaves(want_gradient), strict=True
  ):
    np.testing.assert_allclose(got[:real], expected, atol=1e-7)
    assert not np.any(got[real:])


def test_supervised_is_the_loss_of_the_task():
  outputs, batch = _outputs(), _batch()
  want = np.mean(TASK.loss(outputs.logits, batch))
  np.testing.assert_allclose(
    _value('supervised', outputs, batch).compute(), want, rtol=1e-6
  )


def test_per_expert_adds_the_losses_of_all_experts():
  outputs, batch = _outputs(), _batch()
  want = sum(
    FACTOR[path] * np.mean(TASK.loss(outputs.unimodal[path], batch)) for path in PATHS
  )
  np.testing.assert_allclose(
    _value('per_expert', outputs, batch).compute(), want, rtol=1e-6
  )


def test_informativeness_adds_the_mean_gates_of_all_views():
  outputs = _outputs()
  want = sum(
    FACTOR[path] * np.mean(outputs.aux[f'informativeness/{path}']) for path in PATHS
  )
  got = _value('informativeness', outputs, _batch()).compute()
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_jacobian_adds_those_of_all_equilibria_in_the_model():
  aux = _outputs().aux
  want = np.mean(aux['jacobian'] + aux['dear/jacobian'])
  got = _value('jacobian', _outputs(), _batch()).compute()
  np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize('detach', [True, False])
def test_confidence_is_to_be_the_probability_of_the_truth(detach):
  outputs, batch = _outputs(), _batch()
  term = LOSSES['confidence'](TASK, FACTORS, detach=detach)

  def value(outputs):
    return term.apply(outputs, batch, {}, (), None)[0].compute()

  rows = np.arange(BATCH), batch['label']
  error = {
    path: outputs.aux[f'confidence/{path}']
    - jax.nn.softmax(outputs.unimodal[path])[rows]
    for path in PATHS
  }
  got, gradient = jax.value_and_grad(value)(outputs)
  want = sum(FACTOR[path] * np.mean(error[path] ** 2) for path in PATHS)
  np.testing.assert_allclose(got, want, rtol=1e-6)
  for path in PATHS:
    want = 2 * FACTOR[path] * error[path] / BATCH
    np.testing.assert_allclose(gradient.aux[f'confidence/{path}'], want, rtol=1e-5)
    reaches_logits = np.any(gradient.unimodal[path])
    assert reaches_logits == (not detach and FACTOR[path] > 0)


def test_confidence_can_be_wrong_in_absolute_terms():
  outputs, batch = _outputs(), _batch()
  term = LOSSES['confidence'](TASK, {}, error='absolute')
  rows = np.arange(BATCH), batch['label']
  want = sum(
    np.mean(np.abs(outputs.aux[f'confidence/{p}'] - jax.nn.softmax(x)[rows]))
    for p, x in outputs.unimodal.items()
  )
  got = term.apply(outputs, batch, {}, (), None)[0].compute()
  np.testing.assert_allclose(got, want, rtol=1e-6)
  with pytest.raises(ValueError, match="error='cubed'; expected squared or absolute"):
    LOSSES['confidence'](TASK, {}, error='cubed')


OF_VIEWS = ('confidence', 'evidential', 'per_expert', 'rank')


@pytest.mark.parametrize('name', OF_VIEWS)
def test_an_expert_is_not_judged_where_it_is_absent(name):
  """Neither its value nor a gradient depends on what it says there."""
  batch, present = _batch(), np.array([1, 1, 0, 1, 0, 1], bool)
  outputs = _outputs()

  def run(said):
    of = dataclasses.replace(
      outputs,
      unimodal={**outputs.unimodal, 'cheap': said['logits']},
      weights={**outputs.weights, 'cheap': said['weight']},
      aux={
        **outputs.aux,
        'confidence/cheap': said['weight'],
        'present/cheap': jnp.asarray(present),
      },
    )
    return _value(name, of, batch).compute()

  said = {'logits': outputs.unimodal['cheap'], 'weight': outputs.weights['cheap']}
  garbage = jax.tree.map(lambda x: x.at[~present].set(9.0), said)
  run = jax.jit(jax.value_and_grad(run))
  value, gradient = run(said)
  np.testing.assert_array_equal(value, run(garbage)[0])
  for leaf in jax.tree.leaves(gradient):
    assert not np.any(leaf[~present])
  everywhere = _value(name, outputs, batch).compute()
  assert value != everywhere


@pytest.mark.parametrize('annealing', [0.0, 0.25])
def test_evidential_adds_the_losses_of_the_fusion_and_of_all_views(annealing):
  outputs, batch = _outputs(), _batch()
  term, rows = LOSSES['evidential'](TASK), np.arange(BATCH)
  want = 0.0
  for logits in (outputs.logits, *outputs.unimodal.values()):
    alpha = np.exp(np.asarray(logits, np.float64))
    other = alpha.copy()
    other[rows, batch['label']] = 1
    total = other.sum(1, keepdims=True)
    divergence = special.gammaln(total[:, 0]) - special.gammaln(other).sum(1)
    divergence -= special.gammaln(CLASSES)
    spread = special.digamma(other) - special.digamma(total)
    divergence += ((other - 1) * spread).sum(1)
    chosen = special.digamma(alpha[rows, batch['label']])
    entropy = special.digamma(alpha.sum(1)) - chosen
    want += np.mean(entropy + annealing * divergence)
  hparams = {'evidential_annealing': annealing}
  got = term.apply(outputs, batch, hparams, (), None)[0].compute()
  np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize('name', ['confidence', 'informativeness', 'per_expert'])
def test_a_factor_for_an_unknown_view_is_an_error(name):
  make, factors = LOSSES[name], {'smell': 2.0}
  term = make(factors) if name == 'informativeness' else make(TASK, factors)
  with pytest.raises(ValueError, match=r"names \['smell'\], but .*cheap"):
    term.apply(_outputs(), _batch(), {}, (), None)


def test_budget_is_the_expected_cost():
  outputs = _outputs()
  want = np.mean(np.asarray(_weights(BATCH)) @ np.array(COSTS))
  np.testing.assert_allclose(
    _value('budget', outputs, _batch()).compute(), want, rtol=1e-6
  )
  gradient = jax.grad(lambda o: _value('budget', o, _batch()).compute())(outputs)
  for path, cost in zip(PATHS, COSTS, strict=True):
    np.testing.assert_allclose(gradient.weights[path], cost / BATCH, rtol=1e-6)


@pytest.mark.parametrize('free', [0.4, 0.7])
def test_what_a_batch_may_spend_is_free(free):
  outputs = _outputs()
  term = LOSSES['budget'](PATHS, COSTS, free)

  def value(outputs):
    return term.apply(outputs, _batch(), {}, (), None)[0].compute()

  cost = np.mean(np.asarray(_weights(BATCH)) @ np.array(COSTS))
  assert 0.4 < cost < 0.7
  got, gradient = jax.value_and_grad(value)(outputs)
  np.testing.assert_allclose(got, max(cost - free, 0), rtol=1e-5)
  for path, price in zip(PATHS, COSTS, strict=True):
    want = price / BATCH if cost > free else 0
    np.testing.assert_allclose(gradient.weights[path], want, rtol=1e-6)


def test_budget_in_the_original_unit_is_the_share_of_the_second_path():
  weights = np.array([[1.0, 0.0], [0.25, 0.75], [0.0, 1.0]], np.float32)
  outputs = Outputs(
    logits=jnp.zeros((3, CLASSES)), weights={'b': weights[:, 0], 'a': weights[:, 1]}
  )
  term = LOSSES['budget'](('b', 'a'), (0.0, 1.0))
  mean, _ = term.apply(outputs, _batch(3), {}, term.init(3), None)
  np.testing.assert_allclose(mean.compute(), weights[:, 1].mean())


@pytest.mark.parametrize(
  ('weights', 'want'),
  [
    (np.eye(3)[[0, 1, 2, 0, 1, 2]], 1.0),  # even, hard
    (np.full((6, 3), 1 / 3), 1.0),  # even, soft
    (np.eye(3)[[1] * 6], 3.0),  # collapsed
    (np.eye(3)[[0, 0, 0, 1, 1, 1]], 3 * (0.5**2 + 0.5**2)),  # one path is dead
  ],
)
def test_balance_is_one_when_even_and_the_number_of_paths_when_collapsed(weights, want):
  mean = _value('balance', _outputs(weights=weights), _batch())
  np.testing.assert_allclose(mean.compute(), want, rtol=1e-6)


def test_balance_pulls_weight_from_the_crowded_path():
  weights = np.tile(np.array([[0.7, 0.2, 0.1]]), (BATCH, 1))
  gradient = jax.grad(lambda o: _value('balance', o, _batch()).compute())(
    _outputs(weights=weights)
  )
  # The share is a constant for the gradient: d/dw_k = K * share_k / B.
  for k, path in enumerate(PATHS):
    np.testing.assert_allclose(
      gradient.weights[path], 3 * weights[:, k] / BATCH, rtol=1e-5
    )


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('budget', 'paths'),
    ('balance', 'paths'),
    ('per_expert', 'per_expert=0'),
    ('informativeness', 'informativeness=0'),
    ('confidence', 'confidence=0'),
    ('jacobian', 'jacobian_probes > 0'),
    ('rank', 'of every expert'),
    ('evidential', 'evidential=0'),
  ],
)
def test_terms_of_gates_refuse_a_model_without(name, message):
  outputs = Outputs(logits=jnp.zeros((BATCH, CLASSES)))
  with pytest.raises(ValueError, match=message):
    _value(name, outputs, _batch())
