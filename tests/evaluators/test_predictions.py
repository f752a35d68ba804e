"""Predictions: the file, and scores against scikit-learn."""

import dataclasses
import json

import numpy as np
import pytest
from sklearn import metrics

from jdyn.data.dataset import DataError, Split
from jdyn.evaluators.predictions import (
  Predictions,
  executed_macs,
  from_outputs,
  reroute,
  score_all,
)
from jdyn.tasks import Multiclass, Multilabel
from jdyn.typing import Outputs

PATHS = {'cheap': 100, 'dear/both': 700}
TOTAL = 750
SEEDS, SIZE, CLASSES = 3, 25, 4
TASK = Multiclass(num_outputs=CLASSES)


@pytest.fixture
def predictions():
  rng = np.random.default_rng(0)
  logits = {
    path: rng.normal(size=(SEEDS, SIZE, CLASSES)).astype(np.float32) for path in PATHS
  }
  dear = rng.random((SEEDS, SIZE)) < 0.3
  weights = {
    'cheap': (~dear).astype(np.float32),
    'dear/both': dear.astype(np.float32),
  }
  return Predictions(
    ids=np.array([f'größe {n}' for n in range(SIZE)]),
    label=rng.integers(CLASSES, size=SIZE).astype(np.int32),
    logits=np.where(dear[..., None], logits['dear/both'], logits['cheap']),
    expert_logits=logits,
    weights=weights,
    about={'stage': 'main', 'n': 3},
    gate_logits=rng.normal(size=(SEEDS, SIZE, 2)).astype(np.float32),
    paths=('dear/both', 'cheap'),
  )


def test_file_gives_back_what_was_saved(predictions, tmp_path):
  path = tmp_path / 'predictions_test.npz'
  predictions.save(path)
  loaded = Predictions.load(path)
  np.testing.assert_array_equal(loaded.ids, predictions.ids)
  np.testing.assert_array_equal(loaded.label, predictions.label)
  np.testing.assert_array_equal(loaded.logits, predictions.logits)
  np.testing.assert_array_equal(loaded.gate_logits, predictions.gate_logits)
  assert loaded.paths == predictions.paths
  for name in ('expert_logits', 'weights'):
    got, want = getattr(loaded, name), getattr(predictions, name)
    assert set(got) == set(want)
    for key in want:
      np.testing.assert_array_equal(got[key], want[key])
  assert loaded.about == predictions.about
  assert loaded.num_seeds == SEEDS
  assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_file_without_a_gate_has_no_gate_logits(predictions, tmp_path):
  path = tmp_path / 'predictions_test.npz'
  dataclasses.replace(predictions, gate_logits=None, paths=()).save(path)
  loaded = Predictions.load(path)
  assert loaded.gate_logits is None
  assert loaded.paths == ()


def _resave(path, **changes):
  with np.load(path) as file:
    arrays = {name: file[name] for name in file.files} | changes
  np.savez(path, **{k: v for k, v in arrays.items() if v is not None})


DAMAGES = {
  'no file': lambda path: path.unlink(),
  'empty': lambda path: path.write_bytes(b''),
  'text': lambda path: path.write_text('not an archive'),
  'half': lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
  'no end': lambda path: path.write_bytes(path.read_bytes()[:-30]),
  'no label': lambda path: _resave(path, label=None),
  'no about': lambda path: _resave(path, about=None),
  'about is no JSON': lambda path: _resave(path, about=np.array('{')),
  'unknown array': lambda path: _resave(path, extra=np.zeros(2)),
  'unknown group': lambda path: _resave(path, **{'other/x': np.zeros(2)}),
  'objects': lambda path: _resave(path, label=np.array([{}, None], object)),
}


@pytest.mark.parametrize('damage', DAMAGES)
def test_damaged_file_is_named(predictions, tmp_path, damage):
  path = tmp_path / 'predictions_test.npz'
  predictions.save(path)
  DAMAGES[damage](path)
  with pytest.raises(DataError, match=r'predictions_test.npz does not hold.*again'):
    Predictions.load(path)


def test_flipped_bits_are_found_or_harmless(predictions, tmp_path):
  path = tmp_path / 'predictions_test.npz'
  predictions.save(path)
  good = path.read_bytes()
  found = 0
  for at in np.linspace(0, len(good) - 1, 60).astype(int):
    path.write_bytes(good[:at] + bytes([good[at] ^ 0x55]) + good[at + 1 :])
    try:
      loaded = Predictions.load(path)
    except DataError:
      found += 1
    else:
      np.testing.assert_array_equal(loaded.logits, predictions.logits)
  assert found > 30


def test_scores_match_scikit_learn(predictions):
  scores = score_all(predictions, Multiclass(num_outputs=CLASSES), PATHS, TOTAL)
  experts = predictions.expert_logits
  average = (experts['cheap'] + experts['dear/both']) / 2
  cases = [(scores['model'], predictions.logits), (scores['uniform'], average)]
  cases += [(scores['paths'][path], experts[path]) for path in PATHS]
  for got, logits in cases:
    for seed in range(SEEDS):
      chosen, label = logits[seed].argmax(-1), predictions.label
      assert got['accuracy'][seed] == pytest.approx(np.mean(chosen == label))
      want = metrics.f1_score(label, chosen, average='macro')
      assert got['macro_f1'][seed] == pytest.approx(want, abs=1e-6)
      shifted = np.exp(logits[seed].astype(np.float64))
      shifted /= shifted.sum(-1, keepdims=True)
      want = metrics.log_loss(label, shifted, labels=range(CLASSES))
      assert got['loss'][seed] == pytest.approx(want, abs=1e-5)
  assert scores['n'] == SIZE
  for path in PATHS:
    want = predictions.weights[path].mean(axis=1)
    assert scores['usage'][path] == pytest.approx(want)
  accuracy = scores['model']['accuracy']
  assert scores['interval']['accuracy']['mean'] == pytest.approx(np.mean(accuracy))
  assert scores['interval']['accuracy']['std'] == pytest.approx(
    np.std(accuracy, ddof=1)
  )


def test_hard_gate_costs_what_it_chooses(predictions):
  macs = executed_macs(predictions, PATHS, TOTAL)
  for seed in range(SEEDS):
    for n in range(SIZE):
      chosen = [path for path in PATHS if predictions.weights[path][seed, n] == 1]
      assert macs[seed, n] == PATHS[chosen[0]]
  scores = score_all(predictions, Multiclass(num_outputs=CLASSES), PATHS, TOTAL)
  assert scores['macs'] == pytest.approx(macs.mean(axis=1))


@pytest.mark.parametrize('share', [0.3, 0.5])
def test_soft_gate_costs_everything(predictions, share):
  weights = {
    'cheap': np.full((SEEDS, SIZE), share),
    'dear/both': np.full((SEEDS, SIZE), 1 - share),
  }
  soft = dataclasses.replace(predictions, weights=weights)
  np.testing.assert_array_equal(executed_macs(soft, PATHS, TOTAL), TOTAL)


def test_model_without_paths_costs_everything(predictions):
  static = dataclasses.replace(predictions, expert_logits={}, weights={})
  np.testing.assert_array_equal(executed_macs(static, {}, TOTAL), TOTAL)
  scores = score_all(static, Multiclass(num_outputs=CLASSES), {}, TOTAL)
  assert scores['paths'] == scores['usage'] == {}
  assert 'uniform' not in scores


def test_one_seed_gives_strict_json(predictions):
  def first(values):
    return {name: value[:1] for name, value in values.items()}

  single = dataclasses.replace(
    predictions,
    logits=predictions.logits[:1],
    expert_logits=first(predictions.expert_logits),
    weights=first(predictions.weights),
  )
  scores = score_all(single, Multiclass(num_outputs=CLASSES), PATHS, TOTAL)
  assert scores['interval']['accuracy']['low'] is None
  json.dumps(scores, allow_nan=False)


def test_multilabel_scores_match_scikit_learn(predictions):
  rng = np.random.default_rng(1)
  label = (rng.random((SIZE, CLASSES)) < 0.4).astype(np.float32)
  many = dataclasses.replace(predictions, label=label)
  scores = score_all(many, Multilabel(num_outputs=CLASSES), PATHS, TOTAL)
  for seed in range(SEEDS):
    want = metrics.f1_score(label, many.logits[seed] > 0, average='macro')
    assert scores['model']['macro_f1'][seed] == pytest.approx(want, abs=1e-6)


def test_from_outputs_takes_names_and_labels_from_the_split(predictions):
  split = Split(inputs={}, label=predictions.label, ids=predictions.ids)
  outputs = Outputs(
    predictions.logits,
    predictions.expert_logits,
    predictions.weights,
    aux={'gate_logits': predictions.gate_logits},
  )
  about = {'split': 'test'}
  got = from_outputs(outputs, split, TASK, about, predictions.paths)
  assert got == dataclasses.replace(predictions, about=about)
  static = dataclasses.replace(outputs, aux={})
  assert from_outputs(static, split, TASK, about).gate_logits is None


def test_rerouted_examples_have_the_outputs_of_their_path(predictions):
  chosen = np.zeros((SEEDS, SIZE), np.int32)
  chosen[1, 3] = 1
  got = reroute(predictions, chosen)
  want = predictions.expert_logits['dear/both'].copy()
  want[1, 3] = predictions.expert_logits['cheap'][1, 3]
  np.testing.assert_array_equal(got.logits, want)
  macs = executed_macs(got, PATHS, TOTAL)
  assert macs[1, 3] == PATHS['cheap']
  assert macs.sum() == PATHS['dear/both'] * (SEEDS * SIZE - 1) + PATHS['cheap']
