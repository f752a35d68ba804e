"""Correlation and sentiment scores against SciPy and scikit-learn."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from jdyn.metrics import moments, sentiment

ONES = np.ones(200, np.float32)


def pairs(offset=0.0):
  rng = np.random.default_rng(0)
  # Sixths hit zero, the limits and the halves at which rounding decides.
  truth = rng.integers(-21, 22, size=200).astype(np.float32) / 6
  noise = rng.integers(-9, 10, size=200).astype(np.float32) / 6
  return truth + np.float32(offset), truth + noise


@pytest.mark.parametrize('offset', [0.0, 5.0])
def test_pearson_matches_scipy(offset):
  truth, prediction = pairs(offset)
  sums = moments.moments(prediction, truth, ONES)
  expected = stats.pearsonr(truth, prediction).statistic
  assert moments.pearson(sums) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize('value', [0.0, 0.3])
def test_pearson_of_a_constant_is_zero(value):
  truth, _ = pairs()
  constant = np.full(200, value, np.float32)
  assert moments.pearson(moments.moments(constant, truth, ONES)) == 0
  assert moments.pearson(moments.moments(truth, constant, ONES)) == 0


def test_sentiment_scores_match_their_definitions():
  truth, prediction = pairs()
  got = sentiment.sentiment_scores(sentiment.sentiment_sums(truth, prediction, ONES))
  moved = truth != 0
  assert 0 < moved.sum() < len(truth)
  sides = {
    'has0': (truth >= 0, prediction >= 0),
    'non0': (truth[moved] > 0, prediction[moved] > 0),
  }
  expected = {}
  for name, (true, predicted) in sides.items():
    expected[f'acc2_{name}'] = sklearn_metrics.accuracy_score(true, predicted)
    expected[f'f1_{name}'] = sklearn_metrics.f1_score(
      true, predicted, average='weighted'
    )
  for name, limit in (('acc5', 2), ('acc7', 3)):
    true, predicted = (np.round(np.clip(v, -limit, limit)) for v in (truth, prediction))
    expected[name] = np.mean(true == predicted)
  expected['phi_has0'] = np.corrcoef(*sides['has0'])[0, 1]
  assert got == pytest.approx(expected)


def test_sentiment_sums_ignore_rows_without_weight():
  truth, prediction = pairs()
  weights = (np.arange(200) < 150).astype(np.float32)
  got = sentiment.sentiment_sums(truth, prediction, weights)
  expected = sentiment.sentiment_sums(truth[:150], prediction[:150], ONES[:150])
  for name, matrix in expected.items():
    np.testing.assert_array_equal(got[name], matrix)
