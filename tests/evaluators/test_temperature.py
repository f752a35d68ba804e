"""Temperature scaling: recovers what was put in, and never looks at the test split."""

import dataclasses

import numpy as np
import pytest
from scipy import optimize
from sklearn import metrics

from jdyn.evaluators.calibration import (
  SCORES,
  calibrate,
  calibration_scores,
  fit_temperature,
  has_probabilities,
  scale,
)
from jdyn.evaluators.predictions import Predictions
from jdyn.metrics.calibration import probabilities
from jdyn.tasks import TASKS

SEEDS, CLASSES = 2, 3


def honest(size, seed):
  """Logits `[S, N, C]` whose softmax is the chance of each class, and labels."""
  rng = np.random.default_rng(seed)
  logits = 1.5 * rng.normal(size=(size, CLASSES))
  chances = probabilities(logits).cumsum(axis=1)
  label = (rng.random((size, 1)) > chances).sum(axis=1)
  return np.stack([logits] * SEEDS).astype(np.float32), label


def split(name, size, seed, factors=(1.0, 1.0)):
  logits, label = honest(size, seed)
  return Predictions(
    ids=np.arange(size),
    label=label,
    logits=logits * np.array(factors, np.float32)[:, None, None],
    expert_logits={'one': logits},
    weights={},
    about={'split': name},
  )


def test_temperature_undoes_what_made_a_model_too_sure():
  found = calibrate(split('valid', 4000, 0, (3, 0.5)), split('test', 4000, 1, (3, 0.5)))
  np.testing.assert_allclose(found.temperature, [3, 0.5], rtol=0.08)
  for name in SCORES:
    assert found.after[name][0] < found.before[name][0]
    assert found.after[name][1] < found.before[name][1]
  assert max(found.after['ece']) < 0.03 < min(found.before['ece'])
  alone = calibrate(split('valid', 4000, 0, (3, 3)), split('test', 4000, 1), 'one')
  np.testing.assert_allclose(alone.temperature, [1, 1], rtol=0.08)


def test_temperature_is_a_stationary_point_of_the_likelihood():
  logits, label = honest(300, 2)

  def loss(inverse):
    found = probabilities(inverse * logits[0])
    return metrics.log_loss(label, found, labels=range(CLASSES))

  want = optimize.minimize(lambda x: loss(x[0]), [0.7], method='Nelder-Mead')
  assert fit_temperature(logits[0], label) == pytest.approx(1 / want.x[0], rel=1e-3)


def test_temperature_is_bounded_where_all_answers_are_right():
  label = np.array([0, 1, 2])
  found = fit_temperature(np.eye(3, dtype=np.float32), label)
  assert 0.01 <= found < 0.05
  assert fit_temperature(-np.eye(3, dtype=np.float32), label) > 20


def test_scores_before_and_after():
  valid, test = split('valid', 50, 3, (2, 2)), split('test', 60, 4, (2, 2))
  found = calibrate(valid, test)
  assert set(found.before) == set(found.after) == set(SCORES)
  for s, temperature in enumerate(found.temperature):
    assert temperature == fit_temperature(valid.logits[s], valid.label)
    for scores, by in ((found.before, 1.0), (found.after, temperature)):
      chances = probabilities(test.logits[s] / by)
      want = metrics.log_loss(test.label, chances, labels=range(CLASSES))
      assert scores['nll'][s] == pytest.approx(want, abs=1e-6)
  assert calibration_scores(test.logits, test.label) == found.before
  right = test.logits.argmax(-1) == test.label
  surest = np.argsort(-probabilities(test.logits).max(-1), axis=1)
  wrong = 1 - np.take_along_axis(right, surest, axis=1)
  risks = np.cumsum(wrong, axis=1) / np.arange(1, 61)
  assert found.selective['aurc'] == pytest.approx(risks.mean(axis=1).tolist())
  np.testing.assert_array_equal(
    scale(test.logits, found.temperature).argmax(-1), test.logits.argmax(-1)
  )


def test_temperature_is_not_fitted_to_test():
  test = split('test', 20, 0)
  with pytest.raises(ValueError, match="valid is of split 'test'"):
    calibrate(test, test)
  valid = split('valid', 20, 0)
  one = dataclasses.replace(valid, logits=valid.logits[:1])
  with pytest.raises(ValueError, match='valid has 1 seeds and test 2'):
    calibrate(one, test)


def test_only_classes_have_probabilities():
  known = {name: has_probabilities(TASKS[name](num_outputs=1)) for name in TASKS}
  assert known == {name: name == 'multiclass' for name in TASKS}
