"""The command that evaluates: scores, a budget in either unit, and measured times."""

import csv
import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import base
from jdyn import evaluate, inference
from jdyn.data.corruptions import CORRUPTIONS, PRESETS, Noise
from jdyn.data.dataset import Dataset
from jdyn.evaluators import latency
from jdyn.evaluators.predictions import Predictions
from jdyn.inference import TrainedRun
from jdyn.ops import dispatcher
from tests import toys
from tests.sealing import rewrite

pytestmark = pytest.mark.usefixtures('compile_fast')

SEEDS = (5, 6)
DATASET = Dataset(
  spec=toys.SPEC,
  splits={
    'train': toys.split(64),
    'valid': toys.split(120, seed=1),
    'test': toys.split(160, seed=2),
  },
  origin='bundled',
  hashes={},
)
MIXES = np.array([1e-3, 3e-3])  # Seconds per example on the cheapest and dearest path.
SECONDS = {
  'dense': 4e-3,
  'ladder': 1.6e-3,
  'buckets': 2e-3,
  'each': 3e-3,
  'switch': 1e-3,
}
_SECONDS = TrainedRun.seconds  # Tests replace it.


@pytest.fixture(scope='module')
def finished():
  return {}


@pytest.fixture
def workdir(train, finished, monkeypatch):
  """A finished run whose data are at hand."""
  if not finished:
    config = toys.stages(num_seeds=2, seed=SEEDS[0], epochs=1)
    finished['run'] = train(config, dataset=DATASET)
  monkeypatch.setattr(TrainedRun, 'dataset', lambda self, root: DATASET)
  return finished['run']


@pytest.fixture
def clock(monkeypatch):
  """Everything runs once, and took what `SECONDS` and `MIXES` say.

  Returns what `TrainedRun.seconds` was asked for.
  """
  asked = []

  def seconds(self, split, batch_size, policies=('auto',), budget=None, seed=None):
    asked.extend((split, batch_size, policy, budget) for policy in policies)
    return {policy: SECONDS[policy] for policy in policies}

  def interleave(calls, rounds, **options):
    for call in calls.values():
      call()
    of = {name: SECONDS[name[0]] for name in calls}
    return {name: np.full(rounds, value) for name, value in of.items()}

  def time_budgets(run, costs, size):
    run(1, costs.min())
    return np.sort(costs), MIXES

  monkeypatch.setattr(TrainedRun, 'seconds', seconds)
  monkeypatch.setattr(dispatcher, 'interleave', interleave)
  monkeypatch.setattr(inference, 'time_budgets', time_budgets)
  return asked


@pytest.fixture
def stopped_clock(monkeypatch):
  """Nothing may be measured."""

  def interleave(*args, **options):
    raise AssertionError('measured')

  for module in (dispatcher, inference, latency):
    monkeypatch.setattr(module, 'interleave', interleave)


def _costs(workdir):
  result = json.loads((workdir / 'stages/main/result.json').read_text())
  return result['macs']


def _budget(workdir, share):
  """Between the cheapest (0) and the dearest path (1), in MACs."""
  low, high = sorted(_costs(workdir)['paths'].values())
  return low + share * (high - low)


def _evaluate(workdir, *arguments):
  evaluate.main(['--workdir', str(workdir), *arguments])


def _written(workdir, name):
  return json.loads((workdir / 'evaluations' / f'{name}.json').read_text())


def _lines(output, start):
  return [line for line in output.splitlines() if line.startswith(start)]


def test_scores_predictions_and_records_agree(workdir, stopped_clock, capsys):
  _evaluate(workdir, '--split', 'valid')
  written = _written(workdir, 'main_valid')
  saved = Predictions.load(workdir / 'evaluations/main_valid.npz')
  trained = Predictions.load(workdir / 'stages/main/predictions_valid.npz')
  np.testing.assert_allclose(saved.logits, trained.logits, atol=1e-5)
  label = DATASET.splits['valid'].label
  accuracy = (saved.logits.argmax(-1) == label).mean(axis=1)
  assert written['model']['accuracy'] == pytest.approx(accuracy.tolist())
  assert 'time' not in written['about']
  with open(workdir / 'evaluations/main_valid.csv', newline='') as file:
    records = list(csv.DictReader(file))
  assert len(records) == 2 * 120
  for s, seed in enumerate(SEEDS):
    of_seed = [record for record in records if record['seed'] == str(seed)]
    right = [record['prediction'] == record['label'] for record in of_seed]
    assert np.mean(right) == pytest.approx(accuracy[s])
    joint = np.mean([float(record['weight/joint']) for record in of_seed])
    assert joint == pytest.approx(saved.weights['joint'][s].mean())
  output = capsys.readouterr().out
  (row,) = _lines(output, 'model')
  assert f'{accuracy.mean():.4f} ±' in row
  assert f'{np.mean(written["macs"]):,.0f}' in row
  assert {'text', 'joint', 'uniform'} <= {x.split()[0] for x in output.splitlines()}
  assert 'per example:' not in output


def test_a_budget_in_macs_is_delivered_and_nothing_measured(
  workdir, stopped_clock, capsys
):
  budget = round(_budget(workdir, 0.4))
  _evaluate(workdir, '--budget', str(budget))
  macs = _written(workdir, f'main_test_budget_{budget}')['macs']
  assert macs == pytest.approx([budget] * 2, rel=0.05)
  output = capsys.readouterr().out
  (line,) = _lines(output, 'MACs per example')
  assert f'asked {budget:,}, delivered {np.mean(macs):,.0f} (' in line
  assert f'{100 * (min(macs) / budget - 1):+.2f} %' in line
  assert 'Milliseconds' not in output


@pytest.mark.parametrize('policy', ['auto', 'buckets'])
def test_a_budget_in_milliseconds_becomes_one_in_macs(workdir, clock, capsys, policy):
  _evaluate(workdir, '--budget', '1.5ms', '--batch-size', '4', '--policy', policy)
  budget = _budget(workdir, 0.25)
  written = _written(workdir, 'main_test_budget_1.5ms')
  assert written['macs'] == pytest.approx([budget] * 2, rel=0.05)
  assert written['about']['budget_macs'] == pytest.approx(budget)
  chosen = 'ladder' if policy == 'auto' else policy
  test = DATASET.splits['test']
  assert clock == [(test, 4, chosen, '1.5ms'), (test, 4, 'dense', '1.5ms')]
  output = capsys.readouterr().out
  assert f'MACs per example: asked {budget:,.0f}, delivered' in output
  (line,) = _lines(output, 'Milliseconds')
  ms = 1e3 * SECONDS[chosen]
  assert f'asked 1.5, delivered {ms:.4g} ({100 * (ms / 1.5 - 1):+.1f} %)' in line
  assert 'dense 4 ' in line
  assert f'policy {chosen}, batches of 4, seed {SEEDS[0]}' in line
  time = written['about']['time']
  assert (time['asked_ms'], time['ms'], time['dense_ms']) == (1.5, ms, 4.0)


@pytest.mark.parametrize(
  ('arguments', 'size', 'policies'),
  [
    (['--policy', 'buckets'], 128, ['buckets', 'dense']),
    (['--batch-size', '1'], 1, ['switch', 'dense']),
    (['--policy', 'dense', '--split', 'valid'], 120, ['dense']),
    (['--stage', 'joint', '--batch-size', '7'], 7, ['dense']),
  ],
)
def test_times_without_a_budget(workdir, clock, capsys, arguments, size, policies):
  _evaluate(workdir, *arguments)
  assert [(asked[1], asked[2], asked[3]) for asked in clock] == [
    (size, policy, None) for policy in policies
  ]
  output = capsys.readouterr().out
  (line,) = _lines(output, f'Milliseconds per example: {1e3 * SECONDS[policies[0]]:g};')
  assert f'dense 4 (policy {policies[0]}, batches of {size}' in line
  assert 'MACs per example' not in output


def test_what_is_timed_is_what_is_scored(workdir, clock):
  noise = ('--corruption', 'missing', '--level', '1', '--modalities', 'text')
  _evaluate(workdir, *noise, '--policy', 'ladder')
  (timed, *_), _ = clock
  assert not timed.inputs['text'].any()
  assert timed.inputs['image'].any()
  about = _written(workdir, 'main_test_missing_1_text')['about']
  assert about['modalities'] == ['text']


def test_help_lists_all_corruptions(capsys):
  with pytest.raises(SystemExit):
    evaluate.main(['--help'])
  words = re.findall(r'\w+', capsys.readouterr().out)
  assert {*CORRUPTIONS, *PRESETS} <= set(words)


def test_a_preset_hits_the_examples_that_it_is_said_to(workdir):
  which = ('--level', '5', '--modalities', 'text,image', '--noise-seed', '3')
  _evaluate(workdir, '--stage', 'joint', '--corruption', 'severity', *which)
  name = 'joint_test_severity_5_image+text_seed_3'
  written = Predictions.load(workdir / 'evaluations' / f'{name}.npz')
  asked = {
    'corruption': 'severity',
    'level': 5.0,
    'modalities': ['text', 'image'],
    'noise_seed': 3,
  }
  assert asked.items() <= written.about.items()
  run, noise = (
    TrainedRun(workdir, 'joint'),
    Noise('severity', 5.0, ('text', 'image'), 3),
  )
  touched = run.touched(DATASET, 'test', noise)
  assert sorted(touched) == ['image', 'text']
  any_touched = touched['image'] | touched['text']
  assert 0.6 < any_touched.mean() < 0.9
  moved = written.logits != run.evaluate(DATASET).logits
  np.testing.assert_array_equal(moved.any((0, 2)), any_touched)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--budget', '5G'], 'budget=5,000,000,000 MACs per example cannot be met'),
    (['--budget', '1'], "cheapest path, 'text', costs"),
    (['--budget', '0.5ms', '--policy', 'dense'], 'takes 1 to 3 ms'),
    (['--budget', '5 apples'], "budget='5 apples' is no cost per example"),
    (['--budget', '5M', '--stage', 'joint'], 'has no paths to choose from'),
    (['--budget', '2ms', '--stage', 'joint'], 'has no paths to choose from'),
    (['--policy', 'ladder', '--stage', 'joint'], 'has no paths to choose from'),
    (['--policy', 'fast'], "Unknown policy 'fast'; expected one of"),
    (['--policy', 'switch'], 'switch takes one example'),
    (['--batch-size', '999'], 'batch_size=999; the split has 160 examples'),
    (['--split', 'tset'], "Unknown split 'tset'"),
    (['--split', 'tset', '--batch-size', '2'], "Unknown split 'tset'"),
    (['--stage', 'txet'], 'txet'),
  ],
)
def test_what_cannot_be_is_said_before_anything_is_predicted(
  workdir, clock, monkeypatch, capsys, arguments, message
):
  monkeypatch.setattr(TrainedRun, 'seconds', _SECONDS)

  def predict(*args, **options):
    raise AssertionError('predicted')

  monkeypatch.setattr(inference, 'predict', predict)
  with pytest.raises(SystemExit) as stopped:
    _evaluate(workdir, *arguments)
  assert stopped.value.code == 1
  error = capsys.readouterr().err
  assert error.startswith('error: ')
  assert message in error
  assert error.count('\n') == 1


@pytest.mark.parametrize('budget', ['2ms', '0.3 ms'])
def test_the_library_evaluates_at_macs_alone(workdir, budget):
  with pytest.raises(ValueError, match='is evaluated at MACs per example'):
    TrainedRun(workdir).evaluate(DATASET, budget=budget)


@pytest.fixture
def timed(workdir, monkeypatch):
  """Milliseconds of a batch: dense 4, text 1, joint 3, gated 2."""

  def interleave(calls, rounds, **options):
    for call in calls.values():
      call()
    ms = {'dense': 4, ('path', 'text'): 1, ('path', 'joint'): 3, 'gated': 2}
    seconds = {name: 1e-3 * ms.get(name, 1) for name in calls}
    return {name: np.full(rounds, value) for name, value in seconds.items()}

  for module in (dispatcher, latency):
    monkeypatch.setattr(module, 'interleave', interleave)
  return workdir


def test_times_by_batch_size_are_kept_and_reported(timed, capsys):
  _evaluate(timed, '--time', '1, 4')
  found = json.loads((timed / 'latency.json').read_text())
  assert [batch['size'] for batch in found['batches']] == [1, 4]
  assert found['seed'] == SEEDS[0]
  assert found['device'].endswith('cores')
  assert 'jax' in found['versions']
  batch, costs = found['batches'][1], _costs(timed)
  assert batch['paths'] == pytest.approx({'text': 0.25, 'joint': 0.75})
  assert batch['realised'] == pytest.approx(
    (4 / 2) / (costs['total'] / batch['gated_macs'])
  )
  output = capsys.readouterr().out
  (row,) = _lines(output, '4 ')
  assert '1 ms' in row
  assert f'{100 * batch["realised"]:.0f} %' in row
  report = (timed / 'report.html').read_text()
  assert 'Measured time' in report
  assert f'{batch["gated_macs"]:,.0f}' in report


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--time', '1,0'], "'0' is no number of examples"),
    (['--time', '1,many'], "'many' is no number of examples"),
    (['--batch-size', '-3'], "'-3' is no number of examples"),
    (['--time', '4', '--split', 'valid', '--noise-seed', '3'], '--split, --noise-seed'),
    (['--time', '4', '--stage', 'joint'], 'leave out --stage'),
    (['--level', '3'], '--level: of which corruption? Give --corruption.'),
    (['--modalities', 'text', '--noise-seed', '4'], '--modalities, --noise-seed: of'),
    (['--subsets', '--level', '3'], '--level: of which corruption?'),
  ],
)
def test_options_that_make_no_sense(tmp_path, capsys, arguments, message):
  with pytest.raises(SystemExit) as stopped:
    _evaluate(tmp_path, *arguments)
  assert stopped.value.code == 2
  assert message in capsys.readouterr().err


def test_a_model_without_paths_has_no_times(workdir, capsys, monkeypatch):
  load = TrainedRun.__init__
  monkeypatch.setattr(TrainedRun, '__init__', lambda self, at: load(self, at, 'joint'))
  with pytest.raises(SystemExit):
    _evaluate(workdir, '--time', '4')
  assert 'has no paths to choose from' in capsys.readouterr().err


def test_runs_repeat_a_corruption_with_other_noise(workdir, capsys):
  arguments = ['--workdir', str(workdir), '--corruption', 'gaussian', '--level', '1']
  evaluate.main([*arguments, '--runs', '3', '--noise-seed', '4'])
  run, accuracy = TrainedRun(workdir), []
  for seed in (4, 5, 6):
    made = run.evaluate(DATASET, 'test', Noise('gaussian', 1.0, (), seed))
    accuracy.append((made.logits.argmax(-1) == made.label).mean())
  assert len(set(accuracy)) > 1
  printed = capsys.readouterr().out
  (line,) = (line for line in printed.splitlines() if line.startswith('accuracy'))
  want = np.mean(accuracy), np.std(accuracy), min(accuracy), max(accuracy)
  assert [float(cell) for cell in line.split()[1:]] == pytest.approx(want, abs=1e-4)
  written = _written(workdir, 'main_test_gaussian_1_seed_4_3_runs')
  assert len(written['runs']) == 3
  assert written['about'] == {**made.about, 'noise_seed': 4}
  for name, value in written['about'].items():
    assert f'{name} {value}' in printed


def test_other_noise_is_written_to_other_files(workdir):
  noises = [
    (),
    ('--level', '0.1234567'),
    ('--level', '0.1234568'),
    ('--modalities', 'text'),
    ('--modalities', 'text,image'),
    ('--noise-seed', '1'),
  ]
  for kind in ((), ('--runs', '1'), ('--subsets',)):
    folder = workdir / 'evaluations'
    shutil.rmtree(folder, ignore_errors=True)
    for noise in noises:
      _evaluate(workdir, '--stage', 'text', '--corruption', 'gaussian', *kind, *noise)
    assert len(list(folder.glob('*.json'))) == len(noises)


@pytest.mark.parametrize(
  ('more', 'message'),
  [
    (['--runs', '3'], 'give --corruption'),
    (
      ['--runs', '3', '--corruption', 'gaussian', '--budget', '5M'],
      'leave out --budge',
    ),
  ],
)
def test_runs_need_a_corruption_and_nothing_else(more, message, capsys):
  with pytest.raises(SystemExit):
    evaluate.main(['--workdir', 'nowhere', *more])
  assert message in capsys.readouterr().err


HAS_TEXT = np.arange(160) % 3 > 0


def _masked(has_text=HAS_TEXT):
  """The data, of which some examples lack the text."""
  splits = {}
  for name, split in DATASET.splits.items():
    mask = np.resize(has_text, len(split))
    text = np.where(mask[:, None], split.inputs['text'], 0)
    inputs = {**split.inputs, 'text': text, 'present/text': mask}
    splits[name] = dataclasses.replace(split, inputs=inputs)
  return dataclasses.replace(DATASET, splits=splits)


def _only_text(monkeypatch, has_text=HAS_TEXT):
  monkeypatch.setattr(TrainedRun, 'dataset', lambda self, root: _masked(has_text))


@pytest.fixture
def tolerant(train, finished, monkeypatch):
  """A gate that reads the image, and a stage `dear` that does with any of its two."""
  if 'tolerant' not in finished:
    confident = toys.MODELS['decision_fusion-confident']
    models = dict(image=toys.unimodal('image'), dear=confident)
    config = toys.config({**toys.gated(models, 'image'), 'experts': {}}, epochs=1)
    for path, model in models.items():
      config.experts[path] = base.stage(ConfigDict(model))
      config.experts[path].batch_size, config.experts[path].epochs = 8, 1
    finished['tolerant'] = train(config, 'tolerant', DATASET)
  _only_text(monkeypatch)
  return finished['tolerant']


def test_examples_that_lack_what_the_model_needs_are_left_out(
  workdir, clock, monkeypatch, capsys
):
  whole = TrainedRun(workdir, 'text').evaluate(DATASET)
  _only_text(monkeypatch)
  _evaluate(workdir, '--stage', 'text', '--batch-size', '8')
  saved = Predictions.load(workdir / 'evaluations/text_test.npz')
  np.testing.assert_array_equal(saved.ids, whole.ids[HAS_TEXT])
  np.testing.assert_allclose(saved.logits, whole.logits[:, HAS_TEXT], atol=1e-5)
  assert _written(workdir, 'text_test')['about']['left_out'] == (~HAS_TEXT).sum()
  assert (
    f'left_out {(~HAS_TEXT).sum()}; n = {HAS_TEXT.sum()}' in capsys.readouterr().out
  )
  np.testing.assert_array_equal(clock[0][0].ids, saved.ids)


@pytest.mark.parametrize('more', [(), ('--present', 'text'), ('--subsets',)])
def test_a_split_of_which_nothing_is_left_is_refused(
  workdir, monkeypatch, capsys, more
):
  _only_text(monkeypatch, np.zeros(1, bool))
  with pytest.raises(SystemExit):
    _evaluate(workdir, '--stage', 'text', *more)
  error = capsys.readouterr().err
  assert "leaves none of the 160 examples with enough of ['" in error


def test_every_set_of_modalities_is_scored_on_those_it_suffices_for(tolerant, capsys):
  noise = ('--corruption', 'gaussian', '--level', '1', '--modalities', 'image')
  _evaluate(tolerant, '--stage', 'dear', '--subsets', *noise)
  written = _written(tolerant, 'dear_test_gaussian_1_image_subsets')
  found = written['subsets']
  sizes = {name: scores['n'] for name, scores in found.items()}
  assert sizes == {'image, text': 160, 'image': 160, 'text': HAS_TEXT.sum()}
  run, noise = TrainedRun(tolerant, 'dear'), Noise('gaussian', 1.0, ('image',), 0)
  for name, scores in found.items():
    made = run.evaluate(_masked(), 'test', noise, present=name.split(', '))
    accuracy = (made.logits.argmax(-1) == made.label).mean(axis=1)
    assert scores['model']['accuracy'] == pytest.approx(accuracy.tolist())
  macs = {name: scores['macs'][0] for name, scores in found.items()}
  assert macs['image, text'] == run.stage.costs.total > macs['image'] > macs['text'] > 0
  title, header, *rows = capsys.readouterr().out.splitlines()
  assert written['about']['corruption'] == 'gaussian'
  assert written['about']['modalities'] == ['image']
  assert 'corruption gaussian, level 1.0' in title
  assert not {'n', 'present', 'left_out'} & {*title.split(), *written['about']}
  assert header.split()[:3] == ['present', 'n', 'MACs']
  assert rows[2].split()[:2] == ['text', f'{HAS_TEXT.sum()}']


def test_sets_of_one_size_need_no_column_for_it(tolerant, monkeypatch, capsys):
  monkeypatch.setattr(TrainedRun, 'dataset', lambda self, root: DATASET)
  _evaluate(tolerant, '--stage', 'dear', '--subsets')
  title, header, *_ = capsys.readouterr().out.splitlines()
  assert title.endswith('; n = 160')
  assert header.split()[:2] == ['present', 'MACs']


def test_a_gate_costs_the_same_by_either_table_and_by_what_predict_runs(
  tolerant, capsys
):
  _evaluate(tolerant, '--subsets')
  _evaluate(tolerant, '--present', 'image')
  assert capsys.readouterr().out.count(evaluate.WHOLE_PATHS) == 2
  row = _written(tolerant, 'main_test_subsets')['subsets']['image']
  alone = _written(tolerant, 'main_test_present_image')
  assert {**alone, **row} == alone
  run = TrainedRun(tolerant)
  outputs = run.predict({'image': DATASET.splits['test'].inputs['image']})
  paths = run.stage.costs.paths
  spent = sum(cost * outputs.weights[path].mean() for path, cost in paths.items())
  assert row['macs'] == pytest.approx([spent])


def test_a_soft_gate_costs_what_can_be_computed(tolerant, tmp_path):
  soft = tmp_path / 'soft'
  shutil.copytree(tolerant, soft)
  result = soft / 'stages' / 'main' / 'result.json'
  rewrite(result, lambda found: found['hparams'].update(gate_hard=[False]))
  run = TrainedRun(soft)
  left, whole = run.costs_with(['image']), run.costs_with()
  assert whole == run.stage.costs == run.costs_with(['image', 'text', 'audio'])
  assert left.paths['image'] == whole.paths['image'] < left.paths['dear']
  assert left.paths['dear'] < whole.paths['dear']
  assert left.total < whole.total


def test_what_is_present_is_what_is_timed(tolerant, clock, monkeypatch):
  which, asked, macs = ('--present', 'image'), [], TrainedRun.macs

  def spy(self, budget, batches, *options):
    asked.append(batches)
    return macs(self, budget, batches, *options)

  monkeypatch.setattr(TrainedRun, 'macs', spy)
  _evaluate(tolerant, *which, '--budget', '1.5ms', '--batch-size', '8')
  split = clock[0][0]
  assert set(split.inputs) == {'image', 'present/text'}
  assert [set(batch) for batch in asked[0]] == [{'image'}] * 8
  run = TrainedRun(tolerant)
  written = _written(tolerant, 'main_test_present_image_budget_1.5ms')
  low, high = sorted(run.stage.costs.paths.values())
  assert written['macs'] == pytest.approx([low + 0.25 * (high - low)], rel=0.05)
  batches = list(run.batches(split, 80))
  seen = np.concatenate([run.predict(batch).logits for batch in batches])
  want = run.evaluate(_masked(), present=['image']).logits[0]
  np.testing.assert_allclose(seen, want, atol=1e-5)


@pytest.mark.parametrize(
  ('present', 'message'),
  [
    (['image', 'bogus'], "Unknown modality 'bogus'; expected"),
    (['audio'], "lacks the modality 'image'"),
  ],
)
def test_what_may_be_present_is_checked(tolerant, present, message):
  run = TrainedRun(tolerant)
  for call in (run.costs_with, lambda names: run.evaluate(DATASET, present=names)):
    with pytest.raises(ValueError, match=message):
      call(present)
