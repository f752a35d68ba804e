"""A segmentation run from end to end: warm-up, gate, what is kept, prediction."""

import dataclasses
import json

import numpy as np
import pytest

from configs import base
from jdyn.data.dataset import Dataset
from jdyn.evaluators.predictions import Predictions
from jdyn.inference import TrainedRun
from jdyn.metrics.segmentation import segmentation_scores
from tests import toys

SIZE = 12


def _flipped(split):
  """Draws an example as it is, or with left and right exchanged."""
  rows = {str(key): row for row, key in enumerate(split.ids)}

  def augment(key, rng):
    step = rng.choice([-1, 1])
    inputs = {name: x[rows[key]][:, ::step] for name, x in split.inputs.items()}
    return inputs, split.label[rows[key]][:, ::step]

  return augment


@pytest.fixture(scope='module')
def dataset():
  train = toys.scenes(20)
  splits = {
    'train': dataclasses.replace(train, augment=_flipped(train)),
    'valid': toys.scenes(SIZE, seed=1),
    'test': toys.scenes(SIZE, seed=2),
  }
  return Dataset(toys.SCENES, splits, origin='bundled', hashes={})


@pytest.fixture(scope='module')
def finished():
  return {}


@pytest.fixture
def workdir(train, dataset, finished):
  """A gate over exits, after a stage of random ones."""
  if not finished:
    options = dict(
      loss__side_outputs=1.0,
      optimizer__learning_rate__init_value=0.01,
      optimizer__learning_rate__end_value=0.01,
    )
    gated = toys.MODELS['gated_stages']
    config = toys.config(gated, loss__budget=0.1, **options)
    config.warm_up.random = base.stage(
      toys.config({**gated, 'policy': 'random'}, **options).model
    )
    config.warm_up.random.update(dict(batch_size=8, epochs=1))
    config.warm_up.random.loss.side_outputs = 1.0
    finished['run'] = train(config, dataset=dataset)
  return finished['run']


def _test(workdir):
  return Predictions.load(workdir / 'stages' / 'main' / 'predictions_test.npz')


def test_counts_of_pixels_are_kept_of_the_model_and_of_every_exit(workdir, dataset):
  kept = _test(workdir)
  paths = [f'exit_{k}' for k in range(3)]
  assert sorted(kept.expert_logits) == sorted(kept.weights) == paths
  label = dataset.splits['test'].label
  for counts in (kept.logits, *kept.expert_logits.values()):
    assert counts.shape == (1, SIZE, toys.CLASSES, toys.CLASSES)
    pixels = [(label == c + 1).sum(axis=(1, 2)) for c in range(toys.CLASSES)]
    np.testing.assert_array_equal(counts[0].sum(axis=-1), np.transpose(pixels))
  # The gate is hard: the model is, image by image, the exit that it chose.
  for path in paths:
    chosen = kept.weights[path][0] == 1
    np.testing.assert_array_equal(
      kept.logits[0, chosen], kept.expert_logits[path][0, chosen]
    )
  assert sum(weights.sum() for weights in kept.weights.values()) == SIZE
  result = json.loads((workdir / 'stages' / 'main' / 'result.json').read_text())
  want = segmentation_scores(kept.logits[0].sum(axis=0))
  found = {name: value[0] for name, value in result['splits']['test']['model'].items()}
  assert found == pytest.approx(want)
  assert set(result['splits']['test']['paths']) == set(paths)


def test_prediction_runs_the_chosen_exit_and_agrees(workdir, dataset):
  run, kept = TrainedRun(workdir), _test(workdir)
  split = dataset.splits['test']
  outputs = run.predict(split.inputs, policy='ladder')
  for path, weights in outputs.weights.items():
    np.testing.assert_array_equal(weights, kept.weights[path][0])
  batch = {'label': split.label}
  counts = run.stage.task.kept(outputs.logits, batch)
  np.testing.assert_array_equal(counts, kept.logits[0])


def test_a_budget_is_kept_with_the_exits_that_were_evaluated(workdir, dataset):
  run, kept = TrainedRun(workdir), _test(workdir)
  costs = run.stage.costs.paths
  at = run.evaluate(dataset, budget=float(min(costs.values())))
  np.testing.assert_array_equal(at.weights['exit_0'], np.ones((1, SIZE)))
  np.testing.assert_array_equal(at.logits, kept.expert_logits['exit_0'])


def test_the_warm_up_took_every_exit(workdir):
  warm = Predictions.load(workdir / 'stages' / 'random' / 'predictions_test.npz')
  shares = [weights.mean() for weights in warm.weights.values()]
  np.testing.assert_allclose(shares, 1 / 3, atol=0.1)  # Of batches of 8 and 4.
