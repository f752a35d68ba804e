"""Selective prediction against brute force, scikit-learn and tables by hand."""

import math
from itertools import permutations

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from jdyn.metrics import selective


def test_curve_by_hand():
  confidence = np.array([0.2, 0.9, 0.6, 0.7])
  coverage, risk = selective.risk_coverage(confidence, np.array([0, 1, 1, 0]))
  np.testing.assert_allclose(coverage, [0.25, 0.5, 0.75, 1])
  np.testing.assert_allclose(risk, [0, 1 / 2, 1 / 3, 2 / 4])
  assert selective.area_under_risk(risk) == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 4)
  best = 0.5 + 0.5 * math.log(0.5)
  assert selective.excess_area_under_risk(risk) == pytest.approx(
    selective.area_under_risk(risk) - best
  )


def test_ties_have_the_mean_risk_of_all_orders():
  confidence = np.array([0.5, 0.9, 0.5, 0.5, 0.1])
  correct = np.array([1, 0, 0, 1, 1])
  found = []
  for order in permutations(range(5)):
    if (np.diff(confidence[list(order)]) <= 0).all():
      wrong = 1 - correct[list(order)]
      found.append(np.cumsum(wrong) / np.arange(1, 6))
  assert len(found) == 6
  _, risk = selective.risk_coverage(confidence, correct)
  np.testing.assert_allclose(risk, np.mean(found, axis=0))


def test_excess_is_zero_for_a_perfect_order_of_many():
  correct = np.arange(20_000) < 14_000
  _, risk = selective.risk_coverage(-np.arange(20_000), correct)
  assert selective.excess_area_under_risk(risk) == pytest.approx(0, abs=1e-4)
  _, worst = selective.risk_coverage(np.arange(20_000), correct)
  assert selective.excess_area_under_risk(worst) > 0.5


@pytest.mark.parametrize(('right', 'aurc'), [(0, 1.0), (1, 0.0)])
def test_all_wrong_and_all_right(right, aurc):
  scores = selective.selective_scores(np.linspace(0, 1, 7), np.full(7, right))
  assert scores['aurc'] == aurc
  assert scores['e_aurc'] == pytest.approx(0)
  assert math.isnan(scores['fpr_at_95_tpr'])
  if right:
    assert scores['aupr_success'] == pytest.approx(1)
  else:
    assert math.isnan(scores['aupr_success'])


def test_threshold_scores_match_brute_force_and_sklearn():
  rng = np.random.default_rng(0)
  correct = rng.random(150) < 0.7
  confidence = np.round(rng.normal(size=150) + correct, 1)  # With ties.
  scores = selective.selective_scores(confidence, correct)
  want = sklearn_metrics.average_precision_score(correct, confidence)
  assert scores['aupr_success'] == pytest.approx(want)
  accepted = [
    (confidence >= t)
    for t in confidence
    if (confidence[correct] >= t).mean() >= selective.TPR
  ]
  want = min(mask[~correct].mean() for mask in accepted)
  assert scores['fpr_at_95_tpr'] == pytest.approx(want)
  assert 0 < want < 1


def test_no_examples_are_refused():
  with pytest.raises(ValueError, match='no examples'):
    selective.risk_coverage(np.zeros(0), np.zeros(0))
