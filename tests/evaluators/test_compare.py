"""Two runs side by side: numbers against SciPy, refusals, and the command."""

import dataclasses
import json

import pytest
from fake_run import FakeRun
from scipy import stats

from jdyn import report as command
from jdyn.data.dataset import DataError
from jdyn.evaluators.compare import compare
from jdyn.evaluators.predictions import Predictions
from tests.sealing import rewrite

FIRST = FakeRun(seeds=(3, 4, 5))
SECOND = FakeRun(seeds=(4, 5, 6), gated=False)  # Its predictions are the dear path's.


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """Folders of two runs, and their predictions of the main stage on test."""
  folders = [tmp_path_factory.mktemp('runs') / name for name in ('first', 'second')]
  made = [run.write(at) for run, at in zip((FIRST, SECOND), folders, strict=True)]
  return *folders, [by_stage['main']['test'] for by_stage in made]


def right(predictions, seeds):
  return predictions.logits[seeds].argmax(-1) == predictions.label


def test_runs_are_paired_by_seed_and_example(runs):
  first, second, predictions = runs
  found = compare(first, second)
  assert (found.seeds, found.count, found.origin) == ((4, 5), 40, 'bundled')
  answers = [right(predictions[0], [1, 2]), right(predictions[1], [0, 1])]
  accuracy = [of.mean(axis=1) for of in answers]
  name, got = next(iter(found.scores.items()))  # The score that counts comes first.
  assert name == 'accuracy'
  assert got.first == pytest.approx(accuracy[0].mean())
  assert got.second == pytest.approx(accuracy[1].mean())
  by_seed = accuracy[1] - accuracy[0]
  ends = stats.t.interval(0.95, 1, by_seed.mean(), stats.sem(by_seed))
  assert got.difference.mean == pytest.approx(by_seed.mean())
  assert (got.difference.low, got.difference.high) == pytest.approx(ends)
  bootstrapped = found.examples['accuracy']
  assert bootstrapped.mean == pytest.approx(by_seed.mean())
  assert bootstrapped.low < bootstrapped.mean < bootstrapped.high
  loss = found.scores['loss']
  assert found.examples['loss'].mean == pytest.approx(
    loss.second - loss.first, abs=1e-5
  )
  for k, of_seed in enumerate(found.by_seed):
    only_first = int((answers[0][k] & ~answers[1][k]).sum())
    only_second = int((answers[1][k] & ~answers[0][k]).sum())
    want = stats.binomtest(only_first, only_first + only_second).pvalue
    assert dataclasses.astuple(of_seed) == (
      only_first,
      only_second,
      pytest.approx(want),
    )


def test_a_run_does_not_differ_from_itself(runs):
  first, _, _ = runs
  found = compare(first, first, 'valid', stage='cheap')
  assert found.seeds == FIRST.seeds
  for of in found.examples.values():
    assert (of.mean, of.low, of.high, of.p) == (0, 0, 0, 1)
  assert {of.p for of in found.by_seed} == {1.0}
  assert {of.difference.mean for of in found.scores.values()} == {0.0}


@pytest.mark.parametrize(
  ('task', 'class_names', 'measured'),
  [
    ('multilabel', ('ant', 'bee'), {'example_f1', 'loss'}),
    ('regression', (), {'mae'}),
  ],
)
def test_other_tasks_have_no_mcnemar(tmp_path, task, class_names, measured):
  for name, gated in (('a', True), ('b', False)):
    run = FakeRun(task=task, class_names=class_names, seeds=(1,), gated=gated)
    run.write(tmp_path / name)
  found = compare(tmp_path / 'a', tmp_path / 'b')
  assert found.by_seed == []
  assert set(found.examples) == measured
  if task == 'regression':
    mae = found.scores['mae']
    assert found.examples['mae'].mean == pytest.approx(mae.second - mae.first, abs=1e-5)
  (scores, examples) = found.tables()
  assert scores[1][-1] == '-'  # One seed has no interval.
  assert len(examples) == 1 + len(measured)


def _change(folder, **changes):
  for path in folder.glob('stages/main/predictions_*.npz'):
    predictions = Predictions.load(path)
    made = {name: make(predictions) for name, make in changes.items()}
    dataclasses.replace(predictions, **made).save(path)
  rewrite(folder / 'stages/main/result.json')


OTHERS = {
  'ids': (
    lambda at: (SECOND.write(at), _change(at, ids=lambda p: p.ids[::-1])),
    r'example 0 is id39 and not id0\. Train and',
  ),
  'sizes': (
    lambda at: dataclasses.replace(SECOND, examples=30).write(at),
    'there are 30 examples and not 40',
  ),
  'labels': (
    lambda at: (SECOND.write(at), _change(at, label=lambda p: (p.label + 1) % 3)),
    'other labels than .*first',
  ),
  'task': (
    lambda at: FakeRun(task='multilabel').write(at),
    r'has task Multilabel.*, but .*first has Multiclass',
  ),
  'seeds': (
    lambda at: dataclasses.replace(SECOND, seeds=(8, 9)).write(at),
    r'has seeds \[8, 9\], and .*first has \[3, 4, 5\]',
  ),
}


@pytest.mark.parametrize('other', OTHERS)
def test_runs_that_cannot_be_compared(runs, tmp_path, other):
  write, message = OTHERS[other]
  write(tmp_path / 'other')
  with pytest.raises(DataError, match=message):
    compare(runs[0], tmp_path / 'other')


def test_unknown_stage_and_split(runs):
  with pytest.raises(DataError, match=r"second has no stage 'cheap'.*\['main'\]"):
    compare(*runs[:2], stage='cheap')
  with pytest.raises(ValueError, match="Unknown split 'train'"):
    compare(*runs[:2], split='train')


def test_command_prints_tables_and_writes_json(runs, tmp_path, capsys):
  first, second, _ = runs
  command.main(['compare', str(first), str(second)])
  out = capsys.readouterr().out
  found = compare(first, second)
  for table in found.tables():
    for row in table:
      assert any(line.split() == ' '.join(row).split() for line in out.splitlines())
  assert len(found.tables()) == 3
  path = second / 'comparisons/main_test_first.json'
  assert out.splitlines()[-1] == f'Written: {path}'
  written = json.loads(path.read_text())
  assert written['folders'] == [str(first), str(second)]
  assert written['examples']['accuracy'] == dataclasses.asdict(
    found.examples['accuracy']
  )
  assert written['by_seed'][1] == dataclasses.asdict(found.by_seed[1])
  path = tmp_path / 'new/numbers.json'
  arguments = ['compare', str(first), str(first), '--split', 'valid', '--stage', 'dear']
  command.main([*arguments, '--json', str(path)])
  written = json.loads(path.read_text())
  assert (written['stage'], written['split']) == ('dear', 'valid')


@pytest.mark.parametrize(
  ('arguments', 'status', 'message'),
  [
    ([], 2, 'give either --workdir, or compare'),
    (['--workdir', 'x', 'compare', 'a', 'b'], 2, 'give either'),
    (['compare', 'nowhere', 'b'], 1, 'nowhere/config.json is missing'),
    (['compare', 'a', 'b', '--split', 'train'], 2, "invalid choice: 'train'"),
  ],
)
def test_command_explains_what_is_wrong(arguments, status, message, capsys):
  with pytest.raises(SystemExit) as stopped:
    command.main(arguments)
  assert stopped.value.code == status
  assert message in capsys.readouterr().err
