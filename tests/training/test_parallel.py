"""Every model trains to the same numbers however its batch lies on the devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdyn import build
from jdyn.models import MODELS
from jdyn.training.feed import make_feed
from jdyn.training.parallel import Parallel, replicated
from jdyn.training.programs import Evaluator, TrainPrograms, hparams_at
from tests import toys

BATCH, STEPS, DEVICES = 8, 3, 4
VALID = 13  # The last batch has five real rows of eight.
WAYS = ('pmap', 'shard_map')

# Every model, trained with most terms that it can have. The toy models hold BatchNorm
# and dropout; the gates add Gumbel noise.
CASES = {
  case: dict(gate__mode='gumbel_straight_through', loss__balance=0.3, loss__budget=0.2)
  if case in toys.GATED
  else {}
  for case in toys.MODELS
}
# Losses of several scales, each with a count of its own.
CASES['esanet'] = dict(loss__side_outputs=1.0)
CASES['gated_stages'] = dict(
  gate__mode='gumbel_straight_through',
  loss__balance=0.3,
  loss__budget=0.2,
  loss__budget_unit='original',
  loss__budget_free=1e-7,
)
CASES['locally_gated_stages'] = CASES['gated_stages']
# Pairs of examples on different devices, a memory of all, and absent modalities.
CASES['decision_fusion-confident'] = dict(
  loss__per_expert=1.0, loss__rank=1.0, missing_rate=0.3
)


def test_every_model_has_a_case():
  assert {case.split('-')[0] for case in CASES} == set(MODELS)


@functools.cache
def _train(case, how, feed='device', num_seeds=1):
  """State after some steps, their metrics, and the evaluation of that state."""
  parallel = Parallel(how, jax.devices()[:DEVICES])
  assert parallel.num_devices == (1 if how == 'jit' else DEVICES)
  config = toys.config(
    toys.MODELS[case],
    optimizer__name='sgd',
    optimizer__learning_rate__init_value=0.1,
    optimizer__learning_rate__end_value=0.1,
    **CASES[case],
  )
  spec, split = toys.data_of(case)
  stage = build.stage(config, spec, parallel.axis_name)
  train, valid = split(20).only(stage.inputs), split(VALID, 1).only(stage.inputs)
  seeds = tuple(range(num_seeds))
  device_bytes = 10**6 if feed == 'device' else 0
  source = make_feed(
    train, seeds, BATCH, feed=feed, device_bytes=device_bytes, num_threads=1
  )
  programs = TrainPrograms(stage, train, source, parallel, num_seeds, STEPS)
  state = parallel.put(programs.start(jnp.arange(num_seeds, dtype=jnp.uint32)))
  (xs,) = source.calls([(0, STEPS)])
  state, metrics = programs.call(state, parallel.put(source.data), 0, xs)
  evaluator = Evaluator(
    stage.model,
    valid,
    parallel,
    num_seeds,
    task=stage.task,
    terms=stage.terms,
    batch_size=BATCH,
    device_bytes=device_bytes,
    keep=lambda outputs, batch: outputs,
  )
  values = jax.vmap(functools.partial(hparams_at, programs.schedules))(
    jnp.zeros(num_seeds, jnp.int32)
  )
  sums, finite, outputs = evaluator(
    state.variables, stage.eval_hparams(values), state.memory
  )
  np.testing.assert_array_equal(finite, np.ones((num_seeds, VALID), bool))
  return jax.tree.map(np.asarray, (state, metrics, sums, outputs))


def _assert_close(got, want):
  got, want = (jax.tree.leaves_with_path(tree) for tree in (got, want))
  for (path, a), (same, b) in zip(got, want, strict=True):
    assert path == same
    np.testing.assert_allclose(
      a, b, rtol=1e-5, atol=1e-5, err_msg=jax.tree_util.keystr(path)
    )


# What takes longest to compile, one of them for all under `pmap`.
_SLOW = ('esanet', 'locally_gated_stages')


@pytest.mark.parametrize(
  ('case', 'how'),
  [(c, how) for c in CASES for how in WAYS if how != 'pmap' or c not in _SLOW],
)
def test_many_devices_compute_what_one_does(case, how):
  """Parameters, BatchNorm's statistics, metrics, and evaluation with padding."""
  want, got = _train(case, 'jit'), _train(case, how)
  assert int(want[0].step[0]) == STEPS
  assert want[0].collections['batch_stats']
  _assert_close(got, want)


@pytest.mark.parametrize('how', ['jit', *WAYS])
def test_the_host_feeds_the_same_training_as_the_device(how):
  _assert_close(_train('unimodal', how, feed='host'), _train('unimodal', how))


@pytest.mark.parametrize('how', WAYS)
def test_seeds_are_split_over_devices_as_one_is(how):
  many = _train('unimodal', how, num_seeds=2)
  _assert_close(many, _train('unimodal', 'jit', num_seeds=2))
  first = jax.tree.map(lambda x: x[:1], many)
  _assert_close(first, _train('unimodal', 'jit'))


def test_the_evaluation_counts_every_example_once():
  _, _, sums, outputs = _train('gated_mixture', 'shard_map')
  assert sums['count'] == VALID
  assert sums['task']['confusion'].sum() == VALID
  assert outputs.logits.shape == (1, VALID, toys.CLASSES)
  predicted = outputs.logits[0].argmax(-1)
  right = np.trace(sums['task']['confusion'][0])
  assert right == (predicted == toys.split(VALID, 1).label).sum()


def test_automatic_is_jit_on_one_device_and_shard_map_on_many():
  assert Parallel('auto', jax.devices()[:1]).how == 'jit'
  many = Parallel('auto', jax.devices()[:DEVICES])
  assert (many.how, many.num_devices) == ('shard_map', DEVICES)


def test_impossible_requests_are_refused():
  with pytest.raises(ValueError, match="Unknown parallel='ddp'"):
    Parallel('ddp')
  with pytest.raises(ValueError, match='batch_size=6 must divide by 4 devices'):
    Parallel('pmap', jax.devices()[:DEVICES]).check(6)
  Parallel('jit').check(7)


@pytest.mark.parametrize('how', ['jit', *WAYS])
def test_axes_may_lie_anywhere(how):
  """One argument per kind: replicated, batch first, batch second."""
  parallel = Parallel(how, jax.devices()[:DEVICES])

  def fn(scale, rows, columns):
    total = jnp.sum(rows)
    if parallel.axis_name is not None:
      total = jax.lax.psum(total, parallel.axis_name)
    return scale * total, {'columns': scale * columns}

  wrapped = parallel.wrap(fn, (replicated, 0, 1), (replicated, 1))
  rows, columns = np.arange(8.0), np.arange(16.0).reshape(2, 8)
  total, out = wrapped(jnp.float32(2), rows, columns)
  assert total == 2 * rows.sum()
  np.testing.assert_array_equal(out['columns'], 2 * columns)
