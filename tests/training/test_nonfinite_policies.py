"""Numbers that are not finite: stopped, left out or gone back from, and never scored.

The faults of `tests.faults.numbers` in small, and what goes with them: resuming, many
devices, sweeps, and evaluation.
"""

import dataclasses
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdyn import build
from jdyn.data.order import train_rows
from jdyn.evaluators.predictions import Predictions
from jdyn.training import nonfinite, selection, stage
from jdyn.training import sweep as sweeping
from jdyn.training.guard import NonFiniteError
from tests import toys
from tests.faults import numbers

BATCH, SIZE, EPOCHS, BAD_ROW = 8, 20, 2, 17
MODEL = toys.unimodal('image')


def _config(**options):
  return toys.config(MODEL, **{'nonfinite': 'skip', 'epochs': EPOCHS, **options})


def _poisoned(split, row=BAD_ROW):
  image = split.inputs['image'].copy()
  image[row, 1, 2] = np.nan
  return dataclasses.replace(split, inputs={**split.inputs, 'image': image})


def _dataset(name='train', row=BAD_ROW):
  """The toy data with one bad example in a split."""
  dataset = toys.dataset(SIZE)
  poisoned = _poisoned(dataset.splits[name], row)
  return dataclasses.replace(dataset, splits={**dataset.splits, name: poisoned})


def _met(seed):
  """The steps of a run at which the bad example is in the batch."""
  rows = train_rows(seed, SIZE, BATCH, 0, EPOCHS * -(-SIZE // BATCH))
  return np.flatnonzero((rows == BAD_ROW).any(axis=1)).tolist()


def _lines(folder, split='train'):
  lines = toys.read_lines(folder / 'metrics.jsonl')
  return [line for line in lines if line['split'] == split]


def _main(workdir):
  return workdir / 'stages' / 'main'


@pytest.fixture(scope='module')
def bench(compile_fast, tmp_path_factory):
  """Whose compiled programs are shared; it wraps things only while it is entered."""
  return numbers.Bench(tmp_path_factory.mktemp('bench'))


@pytest.mark.parametrize(
  ('kind', 'policy', 'passing'),
  [
    ('gradient', 'stop', False),
    ('gradient', 'skip', False),
    ('gradient', 'rollback', True),
    ('gradient', 'rollback', False),
    ('parameter', 'rollback', True),
    ('optimiser state', 'stop', False),
    ('BatchNorm statistic', 'skip', False),
    ('loss memory', 'rollback', True),
    ('input', 'skip', False),
    ('input', 'rollback', True),
  ],
)
def test_a_fault_is_met_as_the_policy_says(bench, kind, policy, passing):
  """At a place that is another one every time."""
  seed = np.random.SeedSequence().entropy
  print(f'seed {seed}')
  rng = np.random.default_rng(seed)
  options = dict(feed='device', steps_per_call=3)
  options['checkpoint_seconds'] = float(rng.choice([0.0, 1e9]))
  with bench:
    fault = bench.draw(rng, kind, passing)
    problem = bench.try_out(fault, policy, **options)
  assert not problem, f'{fault}: {problem}'


def test_a_label_that_is_no_number_is_named(tmp_path):
  rng = np.random.default_rng(0)
  with numbers.Bench(tmp_path, several=True) as bench:
    fault = bench.draw(rng, 'label', passing=False)
    assert not bench.try_out(fault, 'stop', feed='host', steps_per_call=3)


def test_an_unknown_policy_is_refused():
  with pytest.raises(build.ConfigError, match='nonfinite'):
    build.run(_config(nonfinite='ignore'))


class _Killed(BaseException):
  """In place of a signal, which nothing can catch."""


@pytest.fixture
def kill_at_the_third(monkeypatch):
  """Once: when the third step is to be left out. The messages so far."""
  count, original = [], nonfinite._LOG.error

  def error(text, *args):
    count.append(text)
    if len(count) == 3:
      raise _Killed
    original(text, *args)

  def start():
    monkeypatch.setattr(nonfinite._LOG, 'error', error)
    return count

  return start


@pytest.mark.parametrize('steps_per_call', [1, 3])
def test_a_run_that_left_out_steps_resumes_bit_by_bit(
  train, kill_at_the_third, steps_per_call
):
  config = _config(num_seeds=2, seed=4, steps_per_call=steps_per_call)
  config.checkpoint_seconds = 0.0
  want = _main(train(config, 'undisturbed', _dataset()))
  count = kill_at_the_third()
  with pytest.raises(_Killed):
    train(config, 'killed', _dataset())
  got = _main(train(config, 'killed', _dataset()))
  assert len(count) > 3
  for name in ('metrics.jsonl', 'predictions_test.npz', 'predictions_valid.npz'):
    assert (got / name).read_bytes() == (want / name).read_bytes(), name
  skipped = np.sum([line['skipped'] for line in _lines(got)], axis=0)
  assert skipped.tolist() == [len(_met(4)), len(_met(5))]
  whole = [line['loss'] for line in _lines(got)]
  assert (None in np.ravel(whole)) == (steps_per_call == 1)


def test_a_run_resumes_where_a_seed_has_stopped_and_then_halted(
  train, monkeypatch, kill_at_the_third
):
  """What the stopped seed meets is of no interest, nor which step it is at."""
  update = selection.update

  def stop_the_first(best, *args, **options):
    stopped = best.stopped | (jnp.arange(len(best.stopped)) == 0)
    return dataclasses.replace(update(best, *args, **options), stopped=stopped)

  monkeypatch.setattr(selection, 'update', stop_the_first)
  config = _config(num_seeds=2, seed=4, epochs=4, checkpoint_seconds=0.0)
  want = _main(train(config, 'undisturbed', _dataset()))
  kill_at_the_third()
  with pytest.raises(_Killed):
    train(config, 'killed', _dataset())
  got = _main(train(config, 'killed', _dataset()))
  assert (got / 'metrics.jsonl').read_bytes() == (want / 'metrics.jsonl').read_bytes()
  assert _lines(got)[-1]['loss'][0] is None


def test_how_many_in_a_row_were_left_out_is_in_the_checkpoint(monkeypatch):
  monkeypatch.setattr(nonfinite, 'MAX_SKIPS', 2)

  class Context:
    run = build.run(_config())

  def calls():
    made = build.stage(_config(), toys.SPEC)
    return nonfinite.GuardedCalls(made, None, None, None, [Context], 3)

  first, second = calls(), calls()
  first._count_skip(0, 5, 'first.')
  first._count_skip(0, 6, 'second.')
  second.restore(json.loads(json.dumps(first.meta)))
  with pytest.raises(NonFiniteError, match=r'third\. The 2 steps before'):
    second._count_skip(0, 7, 'third.')
  first._count_skip(0, 8, 'after a good one.')  # Counts from 1 again.


def test_nothing_is_compiled_for_a_step_that_is_left_out(train, monkeypatch):
  made = []

  class Recorded(stage.TrainPrograms):
    def __init__(self, *args):
      super().__init__(*args)
      made.append(self)

  monkeypatch.setattr(stage, 'TrainPrograms', Recorded)
  assert _met(4)
  train(_config(seed=4), 'run', _dataset())
  assert made[0].call._cache_size() == 1


@pytest.mark.parametrize('how', ['pmap', 'shard_map'])
def test_many_devices_leave_out_what_one_does(train, how):
  folders = []
  for parallel in ('jit', how):
    config = _config(num_seeds=2, seed=4, parallel=parallel)
    folders.append(_main(train(config, parallel, _dataset())))
  for line, wanted in zip(*map(_lines, folders), strict=True):
    assert line['skipped'] == wanted['skipped']
    np.testing.assert_allclose(line['loss'], wanted['loss'], rtol=1e-4)
  got, want = (Predictions.load(f / 'predictions_test.npz') for f in folders)
  np.testing.assert_allclose(got.logits, want.logits, atol=1e-5)


def test_a_variant_of_a_sweep_leaves_out_what_it_does_alone(
  train, tmp_path, monkeypatch, caplog
):
  monkeypatch.setattr(sweeping, 'load', lambda *args, **options: _dataset())
  monkeypatch.setattr(sweeping, 'write_table', lambda *args: None)
  axis = 'loss.supervised'
  with caplog.at_level(logging.ERROR):
    sweeping.sweep(_config(seed=4), {axis: (0.5, 0.25)}, tmp_path / 'sweep')
  for value in (0.5, 0.25):
    assert f'{axis}={value}: Non-finite training in stage' in caplog.text
    alone = _main(
      train(_config(seed=4, loss__supervised=value), f'{value}', _dataset())
    )
    together = _main(tmp_path / 'sweep' / f'{axis}={value}')
    for line, wanted in zip(*map(_lines, (together, alone)), strict=True):
      assert line['skipped'] == wanted['skipped']
      np.testing.assert_allclose(line['loss'], wanted['loss'], rtol=1e-5)
    got, want = (
      Predictions.load(f / 'predictions_test.npz').logits for f in (together, alone)
    )
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_only_the_policy_that_leaves_out_logs_how_often(train):
  folder = _main(train(_config(nonfinite='rollback'), 'run', toys.dataset(SIZE)))
  assert 'skipped' not in (folder / 'metrics.jsonl').read_text()


def test_an_epoch_without_finite_logits_is_never_the_best(train, caplog):
  caplog.set_level(logging.ERROR)
  with pytest.raises(NonFiniteError, match="in stage 'main', seed 4: accuracy was fin"):
    train(_config(seed=4), 'run', _dataset('valid', row=3))
  assert "seed 4, epoch 2: the logits of 1 of 13 examples, ['toy/1/003']" in caplog.text
  run = next(p for p in caplog.records if 'epoch 1' in p.getMessage())
  assert run.levelno == logging.ERROR


def test_the_log_of_such_an_epoch_is_json_without_scores(train, tmp_path):
  with pytest.raises(NonFiniteError):
    train(_config(), 'run', _dataset('valid', row=3))
  (first, _) = _lines(_main(tmp_path / 'run'), 'valid')
  assert first['accuracy'] == first['loss'] == first['objective'] == [None]


def test_no_score_counts_an_example_without_finite_logits(train, tmp_path):
  with pytest.raises(NonFiniteError, match=r"1 of 13 examples, \['toy/2/003'\]"):
    train(_config(), 'run', _dataset('test', row=3))
  assert not (_main(tmp_path / 'run') / 'result.json').exists()


@pytest.mark.parametrize('maximize', [True, False])
@pytest.mark.parametrize('score', [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_no_better(score, maximize):
  values = {'params': jnp.ones((1, 2))}
  best = selection.start(values, 1, maximize)
  best = selection.update(
    best, values, jnp.array([score]), 1, maximize=maximize, patience=-1
  )
  assert (best.epoch.tolist(), best.bad_epochs.tolist()) == ([0], [1])


def test_means_are_over_the_steps_that_were_applied():
  metrics = {
    'loss': np.float32([[1, np.nan, 3], [np.nan, np.nan, np.nan]]),
    'applied': np.array([[True, False, True], [False, False, False]]),
    'skipped': np.array([[False, True, False], [True, True, True]]),
  }
  means = jax.tree.map(np.ndarray.tolist, nonfinite.applied_means(metrics))
  assert str(means) == "{'loss': [2.0, nan], 'skipped': [1, 3]}"
