"""Coefficients against SciPy, their intervals against theory."""

import math

import numpy as np
import pytest
from scipy import stats

from jdyn.metrics.correlation import COEFFICIENTS, correlate

SCIPY = {
  'pearson': stats.pearsonr,
  'spearman': stats.spearmanr,
  'kendall': stats.kendalltau,
}


def pairs(size, runs=1):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(runs, size))
  return x, np.exp(x) + rng.normal(size=(runs, size))


@pytest.mark.parametrize('kind', COEFFICIENTS)
def test_value_is_the_mean_over_runs(kind):
  x, y = pairs(40, runs=3)
  want = [SCIPY[kind](*pair).statistic for pair in zip(x, y, strict=True)]
  got = correlate(x, y, kind, resamples=20)
  assert got.value == pytest.approx(np.mean(want))
  assert got.low < got.value < got.high
  one = correlate(x[0], y[0], kind, resamples=20)
  assert one.value == pytest.approx(want[0])


def test_interval_is_that_of_fisher():
  rng = np.random.default_rng(1)
  x, y = rng.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], size=400).T
  got = correlate(x, y, 'pearson')
  want = stats.pearsonr(x, y).confidence_interval()
  assert (got.low, got.high) == pytest.approx((want.low, want.high), abs=0.02)
  again = correlate(x, y, 'pearson')
  assert again == got


def test_runs_share_their_examples():
  x, y = pairs(60)
  once = correlate(x, y, 'pearson', resamples=200)
  twice = correlate(np.tile(x, (2, 1)), np.tile(y, (2, 1)), 'pearson', resamples=200)
  assert (twice.low, twice.high) == pytest.approx((once.low, once.high))


@pytest.mark.parametrize('kind', COEFFICIENTS)
def test_a_constant_has_none(kind):
  got = correlate(np.ones(9), np.arange(9), kind, resamples=5)
  assert all(math.isnan(value) for value in (got.value, got.low, got.high))


def test_resamples_that_are_constant_do_not_count():
  got = correlate([0, 0, 0, 1], [1, 1, 1, 0], 'pearson', resamples=200)
  assert (got.value, got.low, got.high) == pytest.approx((-1, -1, -1))


@pytest.mark.parametrize(
  ('x', 'y', 'kind', 'message'),
  [
    (np.zeros(3), np.zeros(4), 'pearson', r'\(1, 3\) and y \(1, 4\)'),
    (np.zeros(3), np.zeros(3), 'tau', r"kind='tau'; expected one of \['kendall'"),
  ],
)
def test_wrong_arguments_are_explained(x, y, kind, message):
  with pytest.raises(ValueError, match=message):
    correlate(x, y, kind)
