"""Area under the precision-recall curve, exact, from all scores at once on the host."""

import numpy as np


def average_precision(truth: np.ndarray, scores: np.ndarray) -> float:
  """The mean over positive examples of the precision down to their score.

  It is the sum of precision times gain in recall over all thresholds, without
  interpolation; equal scores share a threshold. Unlike `roc_auc` it depends on how
  rare positives are: scores without any information give their share.

  Args:
    truth: `[N]` of 0 and 1.
    scores: `[N]`, any monotone function of the probability of 1.

  Raises:
    ValueError: no example is positive.
  """
  positive = np.asarray(truth) > 0.5
  if not positive.any():
    raise ValueError('average_precision: no positive example, so there is no recall.')
  _, group, size = np.unique(scores, return_inverse=True, return_counts=True)
  found = np.bincount(group, positive, len(size))[::-1]  # Highest score first.
  precision = np.cumsum(found) / np.cumsum(size[::-1])
  return float(np.sum(precision * found) / found.sum())
