"""How far a classifier's probabilities can be trusted, and what a temperature mends.

Temperature scaling (Guo et al., ICML 2017) divides all logits of a model by one
number, which is fitted to the validation split: decisions stay, confidences change.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from jdyn.evaluators.predictions import Predictions
from jdyn.metrics import calibration
from jdyn.metrics.selective import selective_scores
from jdyn.tasks import Multiclass, Task

SCORES = ('nll', 'ece', 'brier')
"""What `calibration_scores` gives, in this order."""

_HOTTEST = 100.0


@dataclasses.dataclass(frozen=True)
class Calibrated:
  """A model before and after temperature scaling.

  Attributes:
    temperature: of each seed; above 1 where the model was too sure.
    before: `SCORES` by name, one number per seed.
    after: likewise, of the logits divided by the temperature.
    selective: of the model before, what `selective_scores` gives, per seed.
  """

  temperature: Sequence[float]
  before: Mapping[str, Sequence[float]]
  after: Mapping[str, Sequence[float]]
  selective: Mapping[str, Sequence[float]]


def has_probabilities(task: Task) -> bool:
  """Whether the functions here apply: each example is of one of several classes."""
  return isinstance(task, Multiclass)


def calibration_scores(logits: np.ndarray, label: np.ndarray) -> dict[str, list[float]]:
  """`SCORES` by name, one number per seed.

  Args:
    logits: `[S, N, C]`.
    label: `[N]` classes.
  """
  return {
    name: [getattr(calibration, name)(one_seed, label) for one_seed in logits]
    for name in SCORES
  }


def confidence(logits: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The probability of the likeliest class, and whether that is right: `[..., N]`."""
  found = calibration.probabilities(logits)
  return found.max(axis=-1), found.argmax(axis=-1) == label


def fit_temperature(logits: np.ndarray, label: np.ndarray) -> float:
  """The temperature in [1/100, 100] of the least negative log-likelihood.

  The likelihood has one optimum, since it is convex in 1 / temperature. Where every
  answer is right there is none, and the result is close to the lower end. The released
  QMF code takes 50 steps of L-BFGS at a learning rate of 0.01 from 1.5 instead.

  Args:
    logits: `[N, C]` of one seed, on the validation split.
    label: `[N]` classes.
  """
  from scipy import optimize

  ends = -math.log(_HOTTEST), math.log(_HOTTEST)
  found = optimize.minimize_scalar(
    lambda log: calibration.nll(np.divide(logits, math.exp(log)), label),
    bounds=ends,
    method='bounded',
  )
  return math.exp(found.x)


def scale(logits: np.ndarray, temperature: Sequence[float]) -> np.ndarray:
  """Logits `[S, N, C]`, each seed's divided by its temperature."""
  return logits / np.asarray(temperature, np.float64)[:, None, None]


def calibrate(valid: Predictions, test: Predictions, expert: str = '') -> Calibrated:
  """Fits temperatures to the validation split and scores the test split with them.

  Args:
    valid: of the validation split.
    test: of the split to judge; the same seeds.
    expert: that is judged; the whole model if empty.

  Raises:
    ValueError: `valid` is of another split, or the two have not the same seeds.
  """
  if (split := valid.about.get('split', 'valid')) != 'valid':
    raise ValueError(
      f'calibrate: valid is of split {split!r}; a temperature that is fitted to other '
      'data than the validation split says nothing about new examples.'
    )
  if valid.num_seeds != test.num_seeds:
    raise ValueError(
      f'calibrate: valid has {valid.num_seeds} seeds and test {test.num_seeds}; give '
      'predictions of one run.'
    )
  fitted, judged = (
    split.expert_logits[expert] if expert else split.logits for split in (valid, test)
  )
  temperature = [fit_temperature(one_seed, valid.label) for one_seed in fitted]
  selective = [
    selective_scores(*confidence(one_seed, test.label)) for one_seed in judged
  ]
  return Calibrated(
    temperature=temperature,
    before=calibration_scores(judged, test.label),
    after=calibration_scores(scale(judged, temperature), test.label),
    selective={name: [row[name] for row in selective] for name in selective[0]},
  )
