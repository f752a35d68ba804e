"""Do probabilities mean what they say? Proper scores, and the reliability of bins.

The definitions are those of QMF's released `utils/metrics.py`, in float64: 15 equal
bins `(low, high]` of the largest probability for the expected calibration error (Guo
et al., ICML 2017), and the Brier score as the sum over classes, which lies in [0, 2].
"""

import dataclasses

import numpy as np

BINS = 15
"""Equal bins of [0, 1]."""


@dataclasses.dataclass(frozen=True)
class Reliability:
  """Examples by how sure the model is of them, in equal bins of [0, 1].

  Attributes:
    count: `[bins]`, examples.
    confidence: `[bins]`, their mean confidence; NaN in an empty bin.
    accuracy: `[bins]`, the share of them that is right; NaN in an empty bin.
  """

  count: np.ndarray
  confidence: np.ndarray
  accuracy: np.ndarray

  @property
  def ece(self) -> float:
    """Mean over the examples of their bin's gap; 0 without examples."""
    gap = np.abs(self.confidence - self.accuracy)
    filled = self.count > 0
    return float(np.sum(self.count * gap, where=filled) / max(self.count.sum(), 1))


def reliability(
  confidence: np.ndarray, correct: np.ndarray, bins: int = BINS
) -> Reliability:
  """Sorts examples into the bins `(0, 1/bins], ..., (1 - 1/bins, 1]`.

  A confidence of exactly 0 counts in the first bin; the released code drops it.

  Args:
    confidence: `[N]` in [0, 1].
    correct: `[N]` of 0 and 1.
    bins: their number.
  """
  confidence = np.asarray(confidence, np.float64)
  inner_edges = np.linspace(0, 1, bins + 1)[1:-1]
  which = np.digitize(confidence, inner_edges, right=True)
  count = np.bincount(which, minlength=bins)
  size = np.where(count, count, np.nan)
  return Reliability(
    count,
    np.bincount(which, confidence, minlength=bins) / size,
    np.bincount(which, correct, minlength=bins) / size,
  )


def probabilities(logits: np.ndarray) -> np.ndarray:
  """Softmax over the last axis, in float64."""
  from scipy import special

  return special.softmax(np.asarray(logits, np.float64), axis=-1)


def nll(logits: np.ndarray, label: np.ndarray) -> float:
  """Mean negative log-likelihood of the true class, in nats.

  Args:
    logits: `[N, C]`.
    label: `[N]` classes.
  """
  from scipy import special

  found = special.log_softmax(np.asarray(logits, np.float64), axis=-1)
  return float(-np.take_along_axis(found, np.asarray(label)[:, None], axis=-1).mean())


def brier(logits: np.ndarray, label: np.ndarray) -> float:
  """Mean squared distance of the probabilities from the one-hot truth, in [0, 2].

  Args:
    logits: `[N, C]`.
    label: `[N]` classes.
  """
  found = probabilities(logits)
  truth = np.eye(found.shape[-1])[label]
  return float(((found - truth) ** 2).sum(axis=-1).mean())


def ece(logits: np.ndarray, label: np.ndarray, bins: int = BINS) -> float:
  """Expected calibration error of the likeliest class, in [0, 1].

  Args:
    logits: `[N, C]`.
    label: `[N]` classes.
    bins: number of equal bins.
  """
  found = probabilities(logits)
  correct = found.argmax(axis=-1) == label
  return reliability(found.max(axis=-1), correct, bins).ece
