"""The order of confidences, against loops over the pairs in NumPy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jdyn.losses.ranking import rank
from jdyn.typing import Outputs

pytestmark = pytest.mark.usefixtures('compile_fast')

VIEWS, EXAMPLES, ROWS, STEPS = ('a', 'b'), 9, 8, 4
MARGIN = {'paper': 1, 'none': 0, 'repo': -1}
COMBINATIONS = list(itertools.product(MARGIN, ('mean', 'sum'), (True, False)))


class _Stated:
  """A task whose logits are its losses."""

  def loss(self, logits, batch):
    del batch
    return logits


def _steps(seed=0):
  """Batches in which some rows are padding, and some lack what b reads."""
  random = np.random.default_rng(seed)
  for _ in range(STEPS):
    draw = lambda: random.gamma(2.0, 1.0, ROWS).astype(np.float32)  # noqa: E731
    losses, confidence = ({name: draw() for name in VIEWS} for _ in range(2))
    present = random.random(ROWS) < 0.7
    outputs = Outputs(
      losses['a'],
      unimodal=losses,
      weights=confidence,
      aux={'present/b': present},
    )
    yield (
      outputs,
      {
        'mask': (random.random(ROWS) < 0.8).astype(np.float32),
        'index': random.permutation(EXAMPLES)[:ROWS].astype(np.int32),
      },
    )


def _by_hand(margin, statistic, update_first):
  """Total cost and count of every step, one pair after the other; the history."""
  total, visits = np.zeros((2, EXAMPLES)), np.zeros((2, EXAMPLES))
  costs = []
  for outputs, batch in _steps():
    index, real = batch['index'], batch['mask'] > 0
    judged = [real, real & outputs.aux['present/b']]

    def visit(index=index, judged=judged, outputs=outputs):
      for view, name in enumerate(VIEWS):
        for row in np.flatnonzero(judged[view]):
          total[view, index[row]] += outputs.unimodal[name][row]
          visits[view, index[row]] += 1

    if update_first:
      visit()
    cost = 0.0
    for view, name in enumerate(VIEWS):
      value, known = total[view], np.ones(EXAMPLES, bool)
      if statistic == 'mean':
        value, known = value / np.maximum(visits[view], 1), visits[view] > 0
      kappa = np.zeros(EXAMPLES)
      if known.any() and np.ptp(value[known]):
        kappa = (value - value[known].min()) / np.ptp(value[known])
      rows = [row for row in np.flatnonzero(judged[view]) if known[index[row]]]
      c = outputs.weights[name]
      for i, j in zip(rows, rows[1:] + rows[:1], strict=True):
        gap = kappa[index[i]] - kappa[index[j]]
        cost += max(0, np.sign(gap) * (c[i] - c[j]) + MARGIN[margin] * abs(gap))
    if not update_first:
      visit()
    costs.append((cost, real.sum()))
  return np.array(costs), total, visits


@functools.cache
def _term(margin='paper', statistic='mean', update_first=True):
  return rank(
    _Stated(), VIEWS, margin=margin, statistic=statistic, update_first=update_first
  )


@pytest.mark.parametrize(('margin', 'statistic', 'update_first'), COMBINATIONS)
def test_pairs_are_neighbours_of_which_both_were_judged(
  margin, statistic, update_first
):
  term = _term(margin, statistic, update_first)
  apply = jax.jit(lambda o, b, memory: term.apply(o, b, {}, memory, None))
  memory, costs = term.init(EXAMPLES), []
  for outputs, batch in _steps():
    mean, memory = apply(outputs, batch, memory)
    costs.append((mean.total, mean.count))
  want, total, visits = _by_hand(margin, statistic, update_first)
  assert (want[:, 0] > 0).any()
  np.testing.assert_allclose(costs, want, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(memory.total, total, rtol=1e-5)
  np.testing.assert_array_equal(memory.visits, visits)


@functools.partial(jax.jit, static_argnames=('margin', 'statistic', 'update_first'))
def _apply(index, losses, confidence, memory=None, **options):
  """One view's mean and history after a batch without padding."""
  term = rank(_Stated(), ['x'], **options)
  losses, confidence = jnp.asarray(losses), jnp.asarray(confidence)
  outputs = Outputs(losses, unimodal={'x': losses}, weights={'x': confidence})
  batch = {'index': jnp.asarray(index), 'mask': jnp.ones(len(index))}
  memory = term.init(EXAMPLES) if memory is None else memory
  return term.apply(outputs, batch, {}, memory, None)


def test_the_last_row_is_paired_with_the_first():
  hardest_first = [3.0, 2.0, 1.0]
  right, _ = _apply([0, 1, 2], hardest_first, [0.0, 0.5, 0.5], margin='none')
  assert right.total == 0
  # Out of order by 0.25 are the second and third, and the third and first.
  wrong, _ = _apply([0, 1, 2], hardest_first, [0.75, 0.75, 0.5], margin='none')
  np.testing.assert_allclose(wrong.total, 0.5)


def test_often_seen_examples_are_harder_by_sum_and_not_by_mean():
  found = {}
  for statistic in ('mean', 'sum'):
    options = dict(margin='none', statistic=statistic)
    memory = None
    for _ in range(3):  # An easy one, three times.
      _, memory = _apply([0], [0.5], [0.0], memory, **options)
    # Then beside one that is harder, and was never seen.
    mean, _ = _apply([0, 1], [0.5, 1.0], [1.0, 0.0], memory, **options)
    found[statistic] = float(mean.total)
  assert found == {'mean': 0.0, 'sum': 2.0}


@pytest.mark.parametrize('statistic', ['mean', 'sum'])
def test_the_first_batch_costs_nothing_before_its_losses_are_in(statistic):
  def cost(confidence):
    options = dict(statistic=statistic, update_first=False)
    mean, _ = _apply([0, 1, 2], [1.0, 2.0, 3.0], confidence, **options)
    return mean.total

  value, gradient = jax.value_and_grad(cost)(jnp.array([0.1, 0.5, 0.9]))
  assert value == 0
  np.testing.assert_array_equal(gradient, 0)


def test_what_was_not_visited_costs_nothing():
  _, memory = _apply([0, 1], [1.0, 2.0], [0.0, 0.0])
  options = dict(update_first=False, margin='none')
  for index, want in (([0, 1], 2.0), ([0, 5], 0.0), ([5, 6], 0.0)):
    mean, _ = _apply(index, [1.0, 1.0], [0.0, 1.0], memory, **options)
    np.testing.assert_allclose(mean.total, want)


def test_losses_are_remembered_and_not_trained():
  def cost(losses):
    return _apply([0, 1, 2], losses, [0.0, 0.5, -9.0])[0].total

  np.testing.assert_array_equal(jax.grad(cost)(jnp.array([1.0, 2.0, 4.0])), 0)


@pytest.mark.parametrize('devices', [2, 4])
def test_many_devices_compare_over_their_borders(devices):
  """Values, gradients and history are those of one device."""
  term = _term()
  mesh = jax.make_mesh(
    (devices,),
    ('data',),
    axis_types=(jax.sharding.AxisType.Auto,),
    devices=jax.devices()[:devices],
  )

  def step(outputs, batch, memory, axis_name=None):
    def share(weights):
      of = Outputs(outputs.logits, outputs.unimodal, weights, outputs.aux)
      mean, after = term.apply(of, batch, {}, memory, axis_name)
      return mean.total, (mean, after)

    gradient, (mean, after) = jax.grad(share, has_aux=True)(outputs.weights)
    if axis_name is not None:
      mean = jax.lax.psum(mean, axis_name)
    return gradient, mean, after

  rows, whole = P('data'), P()
  sharded = jax.shard_map(
    functools.partial(step, axis_name='data'),
    mesh=mesh,
    in_specs=(rows, rows, whole),
    out_specs=(rows, whole, whole),
    check_vma=False,
  )
  one, many = jax.jit(step), jax.jit(sharded)
  memory = shared = term.init(EXAMPLES)
  for outputs, batch in _steps():
    gradient, mean, memory = one(outputs, batch, memory)
    got = many(outputs, batch, shared)
    shared = got[2]
    assert np.any(gradient['a'])
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
      got,
      (gradient, mean, memory),
    )


@pytest.mark.parametrize(
  ('run', 'message'),
  [
    (lambda: _term(margin='released'), "margin='released'; expected one of"),
    (lambda: _term(statistic='median'), "statistic='median'; expected 'mean' or"),
    (
      lambda: rank(_Stated(), []).apply(Outputs(jnp.zeros(2)), {}, {}, (), None),
      'needs a model with experts; set loss.rank=0',
    ),
  ],
)
def test_what_cannot_be_is_refused(run, message):
  with pytest.raises(ValueError, match=message):
    run()
