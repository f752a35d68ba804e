"""Correlation of two quantities over examples, with bootstrap intervals."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

RESAMPLES = 1000
"""Bootstrap samples of the examples."""


@dataclasses.dataclass(frozen=True)
class Correlation:
  """A coefficient, and its 95 % percentile interval over examples.

  NaN, all three, where one side is constant and it does not exist.
  """

  value: float
  low: float
  high: float


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
  from scipy import stats

  return stats.pearsonr(x, y).statistic


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
  from scipy import stats

  return stats.spearmanr(x, y).statistic


def _kendall(x: np.ndarray, y: np.ndarray) -> float:
  from scipy import stats

  # The p-value is not read; the asymptotic one takes no time.
  return stats.kendalltau(x, y, method='asymptotic').statistic


COEFFICIENTS: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
  'pearson': _pearson,
  'spearman': _spearman,
  'kendall': _kendall,
}
"""By name: Pearson's r, Spearman's rho and Kendall's tau-b."""


def correlate(
  x: np.ndarray,
  y: np.ndarray,
  kind: str,
  resamples: int = RESAMPLES,
  level: float = 0.95,
  seed: int = 0,
) -> Correlation:
  """The mean over runs of a coefficient over examples, with its interval.

  Examples are drawn with replacement, the same ones for all runs, since runs that
  see the same example are not independent. The interval says nothing about other runs.

  Args:
    x: `[N]`, or `[S, N]` for S runs.
    y: likewise.
    kind: one of `COEFFICIENTS`.
    resamples: number of bootstrap samples.
    level: of the interval.
    seed: of the bootstrap samples.

  Raises:
    ValueError: the shapes differ, or `kind` is unknown.
  """
  x, y = (np.atleast_2d(np.asarray(side, np.float64)) for side in (x, y))
  if x.shape != y.shape:
    raise ValueError(f'correlate: x {x.shape} and y {y.shape} must have one shape.')
  if kind not in COEFFICIENTS:
    raise ValueError(
      f'correlate: kind={kind!r}; expected one of {sorted(COEFFICIENTS)}.'
    )
  coefficient = COEFFICIENTS[kind]

  def mean(chosen: np.ndarray) -> float:
    pairs = zip(x[:, chosen], y[:, chosen], strict=True)
    # A constant has no correlation; nor has a resample that repeats one example.
    found = [coefficient(*pair) if _vary(*pair) else np.nan for pair in pairs]
    return float(np.mean(found))

  everyone = np.arange(x.shape[1])
  value = mean(everyone)
  if np.isnan(value):
    return Correlation(value, np.nan, np.nan)
  rng = np.random.default_rng(seed)
  drawn = [mean(rng.choice(everyone, len(everyone))) for _ in range(resamples)]
  tail = (1 - level) / 2
  low, high = np.nanquantile(drawn, (tail, 1 - tail))
  return Correlation(value, float(low), float(high))


def _vary(*sides: np.ndarray) -> bool:
  return all(np.ptp(side) > 0 for side in sides)
