"""Paired tests against enumeration, SciPy and their error rates."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from jdyn.metrics.paired import mcnemar, paired_bootstrap


def answers(only_first, only_second, both=3, none=2):
  first = [1] * only_first + [0] * only_second + [1] * both + [0] * none
  second = [0] * only_first + [1] * only_second + [1] * both + [0] * none
  return np.array(first), np.array(second)


@pytest.mark.parametrize(('b', 'c'), [(0, 1), (1, 7), (7, 1), (4, 4), (5, 3), (0, 9)])
def test_mcnemar_matches_enumeration(b, c):
  apart = [abs(2 * sum(toss) - b - c) for toss in product((0, 1), repeat=b + c)]
  beyond, here = (
    np.mean(np.greater(apart, abs(b - c))),
    np.mean(np.equal(apart, abs(b - c))),
  )
  exact = mcnemar(*answers(b, c))
  assert (exact.only_first, exact.only_second) == (b, c)
  assert exact.p == pytest.approx(beyond + here)
  assert mcnemar(*answers(b, c), mid_p=True).p == pytest.approx(beyond + here / 2)


def test_models_that_agree_do_not_differ():
  for mid_p in (False, True):
    assert mcnemar(*answers(0, 0), mid_p=mid_p).p == 1


def test_other_examples_are_refused():
  with pytest.raises(ValueError, match=r'\(3,\) and \(4,\) answers'):
    mcnemar(np.ones(3), np.ones(4))


def test_one_run_has_the_interval_of_a_mean():
  values = np.random.default_rng(0).normal(0.1, 1, size=500)
  got = paired_bootstrap(values)
  z = stats.norm.ppf(0.975) * stats.sem(values)
  assert got.mean == pytest.approx(values.mean())
  assert (got.low, got.high) == pytest.approx(
    (values.mean() - z, values.mean() + z), abs=0.015
  )
  assert got.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.02)
  assert paired_bootstrap(values) == got
  assert paired_bootstrap(-values).mean == -got.mean


def test_runs_are_drawn_too():
  # All of the variance is between runs; examples say nothing new.
  runs = np.array([0.1, 0.2, 0.3, 0.6])
  got = paired_bootstrap(np.tile(runs[:, None], (1, 50)))
  means = [np.mean(drawn) for drawn in product(runs, repeat=4)]
  assert (got.low, got.high) == pytest.approx(
    tuple(np.quantile(means, (0.025, 0.975))), abs=0.02
  )
  assert got.p == pytest.approx(2 / 2001)


def test_runs_on_the_same_examples_do_not_count_twice():
  values = np.random.default_rng(1).normal(size=200)
  one = paired_bootstrap(values)
  many = paired_bootstrap(np.tile(values, (5, 1)))
  assert many.high - many.low == pytest.approx(one.high - one.low, rel=0.1)


def test_no_difference_has_p_of_one():
  got = paired_bootstrap(np.zeros((2, 6)), resamples=50)
  assert (got.mean, got.low, got.high, got.p) == (0, 0, 0, 1)
  with pytest.raises(ValueError, match='no differences'):
    paired_bootstrap(np.zeros((2, 0)))
