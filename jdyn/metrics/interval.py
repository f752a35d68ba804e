"""How sure a score is: over examples (Wilson) and over seeds (Student's t)."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np


def wilson(successes: float, count: int, level: float = 0.95) -> tuple[float, float]:
  """Wilson's score interval for a proportion (Wilson, 1927).

  Unlike mean +- z * std it stays in [0, 1] and has a width at 0 % and 100 %.

  Raises:
    ValueError: `count` is not positive, or `successes` is not in [0, count].
  """
  from scipy import special

  if not 0 <= successes <= count or count <= 0:
    raise ValueError(
      f'wilson: {successes} successes of {count} are not a proportion; count must '
      'be positive and successes between 0 and count.'
    )
  z = special.ndtri((1 + level) / 2)
  share = successes / count
  center = share + z**2 / (2 * count)
  spread = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
  scale = 1 + z**2 / count
  # At the borders the two terms are equal, but for rounding.
  return max(0.0, (center - spread) / scale), min(1.0, (center + spread) / scale)


@dataclasses.dataclass(frozen=True)
class Summary:
  """One score over several seeds.

  Attributes:
    mean: over the seeds.
    std: sample standard deviation (n - 1); NaN for one seed.
    low: lower end of the t-interval of the mean; NaN for one seed.
    high: upper end.
    count: number of seeds.
  """

  mean: float
  std: float
  low: float
  high: float
  count: int


def summarize(values: Sequence[float], level: float = 0.95) -> Summary:
  """Mean, standard deviation and t-interval of the mean of independent runs.

  Raises:
    ValueError: `values` is empty.
  """
  from scipy import special

  values = np.asarray(values, np.float64)
  if not values.size:
    raise ValueError('summarize: no values; give at least one score.')
  mean, count = float(values.mean()), values.size
  if count == 1:
    return Summary(mean, math.nan, math.nan, math.nan, 1)
  std = float(values.std(ddof=1))
  spread = float(special.stdtrit(count - 1, (1 + level) / 2)) * std / math.sqrt(count)
  return Summary(mean, std, mean - spread, mean + spread, count)
