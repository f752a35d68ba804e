"""Trained runs: the chosen path alone, a budget, files, and export."""

import dataclasses
import shutil
import types

import jax
import numpy as np
import pytest

import jdyn
from jdyn import inference
from jdyn.data.dataset import DataError, Dataset
from jdyn.data.rows import SplitRows
from jdyn.evaluators import latency
from jdyn.evaluators.predictions import Predictions
from tests import toys
from tests.sealing import rewrite

pytestmark = pytest.mark.usefixtures('compile_fast')

SEEDS = (5, 6)
POLICIES = ('dense', 'ladder', 'buckets', 'each', 'auto')


def _dataset():
  splits = {
    'train': toys.split(64),
    'valid': toys.split(120, seed=1),
    'test': toys.split(160, seed=2),
  }
  return Dataset(spec=toys.SPEC, splits=splits, origin='bundled', hashes={})


TEST = _dataset().splits['test']


@pytest.fixture(scope='module')
def finished():
  return {}


@pytest.fixture
def run(train, finished):
  """A cascade: the gate reads what the text expert made of the text."""
  if 'run' not in finished:
    config = toys.stages(
      num_seeds=2,
      seed=SEEDS[0],
      epochs=1,
      model__gate_inputs=('hidden/text', 'confidence/text'),
    )
    finished['run'] = jdyn.load(train(config, dataset=_dataset()))
    finished['static'] = inference.TrainedRun(finished['run'].workdir, 'joint')
  return finished['run']


@pytest.fixture
def static(run, finished):
  del run
  return finished['static']


def _batch(size):
  return jax.tree.map(lambda x: x[:size], dict(TEST.inputs))


def _whole(run, inputs, position=0):
  """Everything computed by the model as it was trained, outside of inference."""
  variables, hparams = jax.tree.map(
    lambda x: x[position], (run._variables, run._hparams)
  )
  return run.stage.model.apply(variables, inputs, train=False, hparams=hparams)


def _spent(run, outputs):
  paths = run.stage.costs.paths
  return sum(cost * outputs.weights[path].mean() for path, cost in paths.items())


@pytest.mark.parametrize('policy', POLICIES)
@pytest.mark.parametrize('size', [1, 7])
def test_every_policy_gives_what_the_whole_model_gives(run, policy, size):
  if (policy, size) == ('ladder', 1):
    policy = 'switch'
  inputs = _batch(size)
  for position, seed in enumerate(SEEDS):
    got, want = run.predict(inputs, policy, seed=seed), _whole(run, inputs, position)
    np.testing.assert_allclose(got.logits, want.logits, atol=1e-5)
    for path in run.stage.model.paths:
      np.testing.assert_array_equal(got.weights[path], want.weights[path])
    gate_logits = want.aux['gate_logits']
    np.testing.assert_allclose(got.aux['gate_logits'], gate_logits, atol=1e-5)
    assert set(got.unimodal) == {'text'}
    np.testing.assert_allclose(got.unimodal['text'], want.unimodal['text'], atol=1e-5)


@pytest.fixture
def tolerant(train, finished):
  """A gate that reads the image, and a dear path that does without the text."""
  if 'tolerant' not in finished:
    dear = toys.MODELS['decision_fusion-confident']['experts']['joint']
    experts = dict(image=toys.MODELS['unimodal'], dear=dear)
    config = toys.config(toys.gated(experts, 'image'), epochs=1)
    finished['tolerant'] = jdyn.load(train(config, dataset=_dataset()))
  return finished['tolerant']


@pytest.fixture
def voting(train, finished):
  """A gate that reads the image, and a dear path of two experts that vote."""
  if 'voting' not in finished:
    dear = toys.MODELS['decision_fusion']
    experts = dict(image=toys.MODELS['unimodal'], dear=dear)
    config = toys.config(toys.gated(experts, 'image'), epochs=1)
    finished['voting'] = jdyn.load(train(config, dataset=_dataset()))
  return finished['voting']


@pytest.mark.parametrize('policy', ['dense', 'ladder', 'buckets', 'each'])
def test_a_gate_heeds_what_examples_lack(tolerant, policy):
  has_text = np.arange(7) % 3 > 0
  inputs = {**_batch(7), 'present/text': has_text}
  want = _whole(tolerant, inputs)
  assert np.any(want.weights['dear'][~has_text])
  heedless = _whole(tolerant, _batch(7))
  assert np.abs(want.logits - heedless.logits)[~has_text].max() > 1e-3
  reader = types.SimpleNamespace(
    size=7, names=tuple(inputs), read=lambda names, rows: _rows(inputs, names, rows)
  )
  for given in (inputs, reader):
    got = tolerant.predict(given, policy)
    np.testing.assert_allclose(got.logits, want.logits, atol=1e-5)


def _rows(inputs, names, rows):
  return {name: inputs[name] if rows is None else inputs[name][rows] for name in names}


def test_a_gate_does_without_a_modality_that_the_batch_lacks(tolerant):
  inputs = _batch(7)
  nobody = {**inputs, 'present/text': np.zeros(7, bool)}
  got = tolerant.predict({'image': inputs['image']})
  np.testing.assert_allclose(
    got.logits, tolerant.predict(nobody, 'dense').logits, atol=1e-5
  )
  with pytest.raises(ValueError, match="lacks the modality 'image'"):
    tolerant.predict({'text': inputs['text']})
  with pytest.raises(ValueError, match="lacks the modality 'image'"):
    tolerant.predict({**inputs, 'present/image': np.arange(7) > 2})


@pytest.mark.parametrize('policy', ['dense', 'buckets', 'each'])
def test_what_stands_in_for_an_absent_modality_has_no_effect(voting, policy):
  inputs = {**_batch(7), 'present/text': np.arange(7) % 3 > 0}
  want = voting.predict(inputs, policy)
  text = np.where(inputs['present/text'][:, None], inputs['text'], np.nan)
  got = voting.predict({**inputs, 'text': text}, policy)
  np.testing.assert_array_equal(got.logits, want.logits)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'Text': None}, r"inputs\['Text'\]: there is no such modality; .*'audio'"),
    ({'present/Text': np.ones(7, bool)}, r"inputs\['present/Text'\]: there is no"),
    ({'present/text': np.arange(7) > 2}, "examples have 'text', which is not among"),
  ],
)
def test_names_that_mean_nothing_are_refused(tolerant, change, message):
  image = _batch(7)['image']
  with pytest.raises(ValueError, match=message):
    tolerant.predict({'image': image, **change})


def test_a_reader_says_what_it_lacks(tolerant):
  reader = types.SimpleNamespace(size=7, names=('image',), read=None)
  with pytest.raises(ValueError, match="the reader lacks 'text'"):
    tolerant.predict(reader)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (dict(task='regression'), 'regression, of modalities .* run is of multiclass'),
    (dict(num_outputs=toys.CLASSES + 1), 'classes or labels; the run is of'),
    (dict(modalities={'text': toys.SPEC.modalities['text']}), 'the run is of'),
  ],
)
def test_other_data_must_fit_the_run(run, monkeypatch, change, message):
  other = dataclasses.replace(_dataset(), spec=dataclasses.replace(toys.SPEC, **change))
  monkeypatch.setattr(inference, 'load_data', lambda *args: other)
  with pytest.raises(DataError, match=f'elsewhere: .*{message}'):
    run.dataset('elsewhere')


def test_other_data_may_lack_a_class(run, monkeypatch):
  fewer = dataclasses.replace(toys.SPEC, num_outputs=toys.CLASSES - 1)
  other = dataclasses.replace(_dataset(), spec=fewer)
  monkeypatch.setattr(inference, 'load_data', lambda *args: other)
  assert run.dataset('elsewhere') is other


def test_batches_of_a_split_say_what_examples_lack(tolerant):
  has_text = np.arange(len(TEST)) % 3 > 0
  split = dataclasses.replace(TEST, inputs={**TEST.inputs, 'present/text': has_text})
  for k, batch in enumerate(tolerant.batches(split, 40)):
    np.testing.assert_array_equal(
      batch['present/text'], has_text[40 * k : 40 * (k + 1)]
    )


def _budget(run, share):
  """Between the cheapest (0) and the dearest path (1), in MACs."""
  low, high = sorted(run.stage.costs.paths.values())
  return low + share * (high - low)


@pytest.mark.parametrize('share', [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize('policy', ['dense', 'ladder'])
def test_a_budget_is_spent_and_no_more(run, share, policy):
  budget = _budget(run, share)
  outputs = run.predict(dict(TEST.inputs), policy, budget)
  assert _spent(run, outputs) == pytest.approx(budget, rel=0.05)
  # Whoever is sent along a path gets its logits.
  whole = _whole(run, dict(TEST.inputs))
  for path, weight in outputs.weights.items():
    rows = weight == 1
    want = whole.unimodal[path][rows]
    np.testing.assert_allclose(outputs.logits[rows], want, atol=1e-5)


def test_a_budget_is_held_over_a_stream_as_over_one_batch(run):
  budget = _budget(run, 0.3)
  want = run.predict(dict(TEST.inputs), 'ladder', budget)
  parts = [
    jax.tree.map(lambda x, start=start: x[start : start + 32], dict(TEST.inputs))
    for start in range(0, len(TEST), 32)
  ]
  got = list(run.stream(parts, 'ladder', budget))
  for path in want.weights:
    weights = np.concatenate([part.weights[path] for part in got])
    np.testing.assert_array_equal(weights, want.weights[path])


def test_a_budget_in_milliseconds_is_looked_up_in_measured_times(run, monkeypatch):
  costs = np.array(sorted(run.stage.costs.paths.values()), np.float64)
  monkeypatch.setattr(
    inference, 'time_budgets', lambda *args: (costs, np.array([1e-3, 3e-3]))
  )
  inputs = dict(TEST.inputs)
  assert run.macs('1.5ms', [inputs]) == pytest.approx(_budget(run, 0.25))
  outputs = run.predict(inputs, 'ladder', '1.5ms')
  assert _spent(run, outputs) == pytest.approx(_budget(run, 0.25), rel=0.05)
  with pytest.raises(ValueError, match=r'takes 1 to 3 ms'):
    run.predict(inputs, 'ladder', '0.5ms')


def test_a_stream_in_milliseconds_goes_by_the_clock(run, monkeypatch):
  """A machine that has become slower by a third since it was measured."""
  costs = np.array(sorted(run.stage.costs.paths.values()), np.float64)
  table = costs, 1e-9 * costs
  monkeypatch.setattr(inference, 'time_budgets', lambda *args: table)
  monkeypatch.setattr(run, '_times', {})
  clock, outputs = [0.0], run._outputs

  def compute(*args):
    made = outputs(*args)
    clock[0] += 1e-9 * 4 / 3 * _spent(run, made) * len(made.logits)
    return made

  monkeypatch.setattr(run, '_outputs', compute)
  ticks = types.SimpleNamespace(perf_counter=lambda: clock[0])
  monkeypatch.setattr(inference, 'time', ticks)
  batches = [_batch(20)] * 24
  asked = 1e-9 * _budget(run, 0.6)
  assert len(list(run.stream(batches, 'ladder', f'{1e3 * asked}ms'))) == 24
  assert clock[0] / (24 * 20) == pytest.approx(asked, rel=0.05)


def test_beside_a_policy_in_milliseconds_others_execute_its_macs(run, monkeypatch):
  costs = np.array(sorted(run.stage.costs.paths.values()), np.float64)
  monkeypatch.setattr(
    inference, 'time_budgets', lambda *args: (costs, np.array([1e-3, 3e-3]))
  )
  monkeypatch.setattr(run, '_times', {})
  asked = {}

  def stream(batches, policy, budget, seed):
    asked[policy] = budget
    return iter(())

  monkeypatch.setattr(run, 'stream', stream)
  run.seconds(TEST, 40, ['ladder', 'dense'], '1.5ms')
  assert asked == {'ladder': '1.5ms', 'dense': pytest.approx(_budget(run, 0.25))}


def test_measured_times_are_of_streams_that_spend_the_budget(run, monkeypatch):
  """A clock that ticks with the MACs which were really executed."""
  spent = []
  outputs = run._outputs

  def count(*args):
    spent.append(_spent(run, outputs(*args)))
    return outputs(*args)

  def interleave(calls, rounds, **options):
    found = {}
    for budget, call in calls.items():
      spent.clear()
      call()
      found[budget] = np.full(rounds, 7e-6 * sum(spent))
    return found

  monkeypatch.setattr(run, '_outputs', count)
  monkeypatch.setattr(latency, 'interleave', interleave)
  monkeypatch.setattr(run, '_times', {})
  budget = _budget(run, 0.4)
  ms = 1e3 * 1e-6 * budget  # Of a batch of 7, a tick per MAC and batch.
  assert run.macs(f'{ms}ms', [_batch(7)], 'ladder') == pytest.approx(budget, rel=0.05)


def test_times_are_of_the_mix_that_validation_has(run):
  found = run.time(7, seed=SEEDS[1], rounds=3)
  assert set(found['paths']) == set(run.stage.model.paths)
  shares = Predictions.load(
    run.workdir / 'stages' / 'main' / 'predictions_valid.npz'
  ).weights
  joint = round(7 * float(shares['joint'][1].mean())) / 7
  costs = run.stage.costs
  want = joint * costs.paths['joint'] + (1 - joint) * costs.paths['text']
  assert found['gated_macs'] == pytest.approx(want)
  ceiling = costs.total / want
  assert found['realised'] == pytest.approx(found['dense'] / found['gated'] / ceiling)
  assert run.seconds(TEST, 40, ['buckets'], _budget(run, 0.5))['buckets'] > 0


@pytest.fixture
def files(run, tmp_path):
  """Images in files; those of examples that the gate sends to the text are gone."""
  inputs, size = _batch(20), 20
  sent = run.predict(inputs, 'dense', _budget(run, 0.5)).weights['joint']
  assert 0 < sent.sum() < size
  paths = []
  for row, image in enumerate(inputs['image']):
    paths.append(tmp_path / f'{row}.npy')
    if sent[row]:
      np.save(paths[-1], image)
  return {**inputs, 'image': paths}


def test_files_of_a_path_that_is_not_taken_are_never_opened(run, files):
  budget = _budget(run, 0.5)
  want = run.predict(_batch(20), 'dense', budget)
  got = run.predict(files, budget=budget)
  np.testing.assert_allclose(got.logits, want.logits, atol=1e-5)
  with pytest.raises(DataError, match=r'no readable \.npy file'):
    run.predict(files, 'dense', budget)


def test_rows_of_a_split_are_predicted_as_its_arrays_are(run):
  rows = np.array([3, 1, 4, 15, 9])
  got = run.predict(SplitRows(TEST, rows))
  want = run.predict(jax.tree.map(lambda x: x[rows], dict(TEST.inputs)), 'dense')
  np.testing.assert_allclose(got.logits, want.logits, atol=1e-5)


@pytest.mark.parametrize('size', [1, 5])
@pytest.mark.parametrize('budget', [None, 0.4])
def test_an_exported_program_branches_and_gives_the_same(run, size, budget):
  budget = None if budget is None else _budget(run, budget)
  exported = run.export(size, budget, seed=SEEDS[1])
  assert 'stablehlo.case' in exported.mlir_module()
  inputs = _batch(size)
  program = jax.export.deserialize(exported.serialize())
  got, want = program.call(inputs), run.predict(inputs, 'dense', budget, SEEDS[1])
  np.testing.assert_allclose(got['logits'], want.logits, atol=1e-5)
  chosen = [want.weights[path] for path in run.stage.model.paths]
  np.testing.assert_array_equal(got['path'], np.argmax(chosen, axis=0))


def test_a_static_model_is_exported_and_predicts_whole(static):
  inputs = _batch(3)
  want = _whole(static, inputs).logits
  for policy in ('auto', 'dense'):
    got = static.predict(inputs, policy).logits
    np.testing.assert_allclose(got, want, atol=1e-5)
  got = static.export(3).call(inputs)['logits']
  np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize('options', [dict(policy='ladder'), dict(budget='5M')])
def test_a_static_model_has_nothing_to_choose(static, options):
  with pytest.raises(ValueError, match='has no paths to choose from'):
    static.predict(_batch(3), **options)


def test_soft_weights_need_every_path(run, tmp_path):
  """As a gate that is evaluated as it was trained."""
  workdir = tmp_path / 'soft'
  shutil.copytree(run.workdir, workdir)
  path = workdir / 'stages' / 'main' / 'result.json'
  rewrite(path, lambda result: result['hparams'].update(gate_hard=[False, False]))
  soft = jdyn.load(workdir)
  weights = soft.predict(_batch(5)).weights['text']
  assert ((weights > 0) & (weights < 1)).all()
  for options in (dict(policy='ladder'), dict(budget='5k')):
    with pytest.raises(ValueError, match='soft weights'):
      soft.predict(_batch(5), **options)


@pytest.mark.parametrize(
  ('change', 'options', 'message'),
  [
    ({}, dict(policy='fast'), "Unknown policy 'fast'; expected one of"),
    ({}, dict(policy='switch'), 'switch takes one example'),
    ({}, dict(budget='5 apples'), "budget='5 apples' is no cost"),
    ({}, dict(budget='5G'), r'budget=5,000,000,000 MACs per example cannot'),
    ({}, dict(seed=9), r'seed=9 is none of this run; it has \(5, 6\)'),
    ({'text': None}, {}, "inputs lacks the modality 'text'"),
    ({'text': np.zeros((3, 4))}, {}, 'as many examples of every modality'),
    ({'audio': np.zeros((2, 4, 2))}, {}, r"inputs\['audio'\] is a sequence: give"),
    ({'text': np.zeros((2, 3))}, {}, r"inputs\['text'\] must be \[B, 4\]"),
  ],
  ids=lambda value: str(value)[:24] if isinstance(value, dict) else None,
)
def test_bad_requests_are_told_so(run, change, options, message):
  inputs = {**_batch(2), **change}
  inputs = {name: value for name, value in inputs.items() if value is not None}
  with pytest.raises(ValueError, match=message):
    run.predict(inputs, **options)


def test_an_exported_budget_is_in_macs(run):
  with pytest.raises(ValueError, match='must be in MACs'):
    run.export(budget='3ms')
