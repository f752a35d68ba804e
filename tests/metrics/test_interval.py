"""Intervals against SciPy, and their coverage."""

import math

import numpy as np
import pytest
from scipy import stats

from jdyn.metrics import interval


@pytest.mark.parametrize('level', [0.9, 0.95])
@pytest.mark.parametrize(('successes', 'count'), [(0, 7), (3, 7), (7, 7), (812, 1000)])
def test_wilson_matches_scipy(successes, count, level):
  expected = stats.binomtest(successes, count).proportion_ci(level, method='wilson')
  got = interval.wilson(successes, count, level)
  assert got == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(('successes', 'count'), [(1, 0), (5, 4), (-1, 4)])
def test_wilson_refuses_what_is_no_proportion(successes, count):
  with pytest.raises(ValueError, match='not a proportion'):
    interval.wilson(successes, count)


def test_summary_matches_scipy():
  values = [0.81, 0.79, 0.84, 0.8]
  got = interval.summarize(values)
  low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
  assert (got.low, got.high) == pytest.approx((low, high))
  assert got.std == pytest.approx(np.std(values, ddof=1))
  assert (got.mean, got.count) == (pytest.approx(0.81), 4)


def test_summary_of_one_seed_has_no_interval():
  got = interval.summarize([0.5])
  assert (got.mean, got.count) == (0.5, 1)
  assert all(math.isnan(value) for value in (got.std, got.low, got.high))


def test_summary_of_nothing_is_refused():
  with pytest.raises(ValueError, match='at least one'):
    interval.summarize([])
