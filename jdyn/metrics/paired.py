"""Two models on the same examples: is one better? McNemar's test, paired bootstrap."""

import dataclasses

import numpy as np

RESAMPLES = 2000
"""Bootstrap samples."""


@dataclasses.dataclass(frozen=True)
class McNemar:
  """Where exactly one of two models is right.

  Attributes:
    only_first: number of examples.
    only_second: number of examples.
    p: two-sided, of both being equally likely.
  """

  only_first: int
  only_second: int
  p: float


def mcnemar(first: np.ndarray, second: np.ndarray, mid_p: bool = False) -> McNemar:
  """McNemar's test, by the exact binomial distribution of the discordant examples.

  Args:
    first: `[N]`, whether the first model is right.
    second: likewise, on the same examples.
    mid_p: count the table at hand by half; less conservative (Fagerland, Lydersen and
      Laake, 2013).

  Raises:
    ValueError: the two have not the same number of examples.
  """
  from scipy import stats

  first, second = (np.asarray(right) > 0.5 for right in (first, second))
  if first.shape != second.shape:
    raise ValueError(
      f'mcnemar: {first.shape} and {second.shape} answers; both models must answer '
      'the same examples.'
    )
  only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
  discordant = only_first + only_second
  if not discordant:
    return McNemar(0, 0, 1.0)
  p = stats.binomtest(only_first, discordant).pvalue
  if mid_p:
    # Both tails have a table like the one at hand, unless it is the middle one.
    tails = 1 if only_first == only_second else 2
    p -= tails / 2 * stats.binom.pmf(only_first, discordant, 0.5)
  return McNemar(only_first, only_second, float(p))


@dataclasses.dataclass(frozen=True)
class Difference:
  """A mean difference.

  Attributes:
    mean: over runs and examples.
    low: lower end of the 95 % percentile interval.
    high: upper end.
    p: two-sided, of the difference being 0.
  """

  mean: float
  low: float
  high: float
  p: float


def paired_bootstrap(
  difference: np.ndarray,
  resamples: int = RESAMPLES,
  level: float = 0.95,
  seed: int = 0,
) -> Difference:
  """The mean of per-example differences, by drawing runs and examples anew.

  Runs and examples are drawn independently of each other, with replacement (Owen's
  pigeonhole bootstrap, 2007), so the interval speaks of other seeds and other examples
  alike. Of few runs, it is too narrow about the seeds by about (S - 1) / S in
  variance; of one run it says nothing about them.

  Args:
    difference: `[S, N]`, or `[N]` of one run: the score of one model less that of the
      other on the same example.
    resamples: number of bootstrap samples; p is at least 2 / (resamples + 1).
    level: of the interval.
    seed: of the bootstrap samples.

  Raises:
    ValueError: there are no differences.
  """
  values = np.atleast_2d(np.asarray(difference, np.float64))
  if not values.size:
    raise ValueError('paired_bootstrap: no differences; give at least one.')
  rng = np.random.default_rng(seed)
  runs, examples = values.shape
  drawn = np.empty(resamples)
  for k in range(resamples):
    chosen = values[rng.integers(runs, size=runs)].mean(axis=0)
    drawn[k] = chosen[rng.integers(examples, size=examples)].mean()
  tail = (1 - level) / 2
  low, high = np.quantile(drawn, (tail, 1 - tail))
  beyond = min((drawn <= 0).sum(), (drawn >= 0).sum())
  p = min(1.0, 2 * (beyond + 1) / (resamples + 1))
  return Difference(float(values.mean()), float(low), float(high), float(p))
