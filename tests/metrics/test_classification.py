"""Scores of classes and labels against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from jdyn.metrics import confusion, f1, label_counts, roc_auc

AVERAGES = ('micro', 'macro', 'weighted')


def classes(rng, num_classes, size=60):
  return rng.integers(num_classes, size=(2, size)).astype(np.int32)


def test_confusion_matrix_counts_only_what_has_weight():
  truth, predicted = classes(np.random.default_rng(0), 4)
  weights = (np.arange(60) % 3 > 0).astype(np.float32)
  got = confusion.confusion_matrix(truth, predicted, weights, 4)
  keep = weights > 0
  expected = sklearn_metrics.confusion_matrix(truth[keep], predicted[keep])
  np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize('present', [(0, 1, 2, 3), (0, 3), (2,)])
def test_confusion_scores_match_sklearn(present):
  truth, predicted = np.take(present, classes(np.random.default_rng(1), len(present)))
  counts = confusion.confusion_matrix(truth, predicted, np.ones(60), 4)
  expected = sklearn_metrics.accuracy_score(truth, predicted)
  assert confusion.accuracy(counts) == pytest.approx(expected)
  got = confusion.confusion_f1(counts)
  for average in AVERAGES:
    expected = sklearn_metrics.f1_score(
      truth, predicted, average=average, zero_division=0
    )
    assert got[average] == pytest.approx(expected), average


def test_phi_is_the_correlation_of_binary_vectors():
  truth, predicted = classes(np.random.default_rng(2), 2)
  counts = confusion.confusion_matrix(truth, predicted, np.ones(60), 2)
  assert confusion.phi(counts) == pytest.approx(np.corrcoef(truth, predicted)[0, 1])
  assert confusion.phi([[3, 0], [4, 0]]) == 0


def test_label_scores_match_sklearn():
  rng = np.random.default_rng(3)
  truth, predicted = rng.integers(2, size=(2, 40, 5)).astype(np.float32)
  truth[:, 0] = predicted[:, 0] = 0  # A label that never occurs.
  weights = (np.arange(40) < 33).astype(np.float32)
  counts = label_counts.label_counts(truth, predicted, weights)
  matrices = sklearn_metrics.multilabel_confusion_matrix(truth[:33], predicted[:33])
  for name, row, column in (('tn', 0, 0), ('fp', 0, 1), ('fn', 1, 0), ('tp', 1, 1)):
    np.testing.assert_array_equal(counts[name], matrices[:, row, column])
  expected = np.mean(truth[:33] == predicted[:33])
  assert label_counts.label_accuracy(counts) == pytest.approx(expected)
  got = label_counts.label_f1(counts)
  for average in AVERAGES:
    expected = sklearn_metrics.f1_score(
      truth[:33], predicted[:33], average=average, zero_division=0
    )
    assert got[average] == pytest.approx(expected), average


def test_scores_of_nothing_are_zero():
  assert confusion.accuracy(np.zeros((3, 3))) == 0
  assert set(confusion.confusion_f1(np.zeros((3, 3))).values()) == {0.0}
  zeros = np.zeros(2)
  assert set(f1.f1_scores(zeros, zeros, zeros).values()) == {0.0}
  assert label_counts.label_accuracy(dict.fromkeys(('tp', 'fp', 'fn', 'tn'), 0)) == 0


@pytest.mark.parametrize('levels', [3, 10_000])
def test_roc_auc_matches_sklearn_with_ties(levels):
  rng = np.random.default_rng(4)
  truth = rng.integers(2, size=80)
  scores = (rng.integers(levels, size=80) + truth).astype(np.float32)
  expected = sklearn_metrics.roc_auc_score(truth, scores)
  assert roc_auc.roc_auc(truth, scores) == pytest.approx(expected)


def test_roc_auc_refuses_a_single_class():
  with pytest.raises(ValueError, match='0 positive and 3 negative'):
    roc_auc.roc_auc(np.zeros(3), np.arange(3))
