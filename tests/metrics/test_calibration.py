"""Calibration against scikit-learn, the definition bin by bin, and by hand."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from jdyn.metrics import calibration

SIZE, CLASSES = 200, 4


@pytest.fixture
def logits():
  return 2 * np.random.default_rng(0).normal(size=(SIZE, CLASSES)).astype(np.float32)


@pytest.fixture
def label():
  return np.random.default_rng(1).integers(CLASSES, size=SIZE)


def softmax(logits):
  shifted = np.exp(logits.astype(np.float64))
  return shifted / shifted.sum(axis=-1, keepdims=True)


def ece_by_definition(confidence, correct, bins):
  total = 0.0
  for k in range(bins):
    inside = [k / bins < c <= (k + 1) / bins for c in confidence]
    if any(inside):
      members = np.array(inside)
      gap = abs(confidence[members].mean() - correct[members].mean())
      total += members.mean() * gap
  return total


def test_proper_scores_match_sklearn(logits, label):
  found = softmax(logits)
  want = sklearn_metrics.log_loss(label, found, labels=range(CLASSES))
  assert calibration.nll(logits, label) == pytest.approx(want, abs=1e-9)
  columns = [
    sklearn_metrics.brier_score_loss(label == c, found[:, c]) for c in range(CLASSES)
  ]
  assert calibration.brier(logits, label) == pytest.approx(sum(columns), abs=1e-9)


@pytest.mark.parametrize('bins', [1, 10, 15])
def test_ece_matches_the_definition(logits, label, bins):
  found = softmax(logits)
  correct = (found.argmax(axis=1) == label).astype(float)
  want = ece_by_definition(found.max(axis=1), correct, bins)
  assert calibration.ece(logits, label, bins) == pytest.approx(want, abs=1e-9)
  assert want > 0.05


def test_table_by_hand():
  # Two bins: (0, 0.5] holds 0.4 (right) and 0.5 (wrong), (0.5, 1] holds 0.7 and 1.0.
  confidence = np.array([0.4, 0.5, 0.7, 1.0])
  found = calibration.reliability(confidence, np.array([1, 0, 1, 1]), bins=2)
  np.testing.assert_array_equal(found.count, [2, 2])
  np.testing.assert_allclose(found.confidence, [0.45, 0.85])
  np.testing.assert_allclose(found.accuracy, [0.5, 1.0])
  assert found.ece == pytest.approx(0.5 * 0.05 + 0.5 * 0.15)


@pytest.mark.parametrize(('confidence', 'at'), [(0.0, 0), (0.5, 1), (0.51, 2), (1, 3)])
def test_upper_edges_belong_to_their_bin(confidence, at):
  found = calibration.reliability(np.array([confidence]), np.array([1]), bins=4)
  assert found.count.tolist() == np.eye(4)[at].tolist()
  assert np.isnan(np.delete(found.accuracy, at)).all()


def test_extreme_logits_are_finite():
  logits = np.array([[1e4, 0.0], [0.0, 1e4]], np.float32)
  assert calibration.nll(logits, np.array([0, 0])) == pytest.approx(5000)
  assert calibration.brier(logits, np.array([0, 0])) == pytest.approx(1)
  assert calibration.ece(logits, np.array([0, 1])) == 0
