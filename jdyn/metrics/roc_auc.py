"""Area under the ROC curve, exact, from all scores at once on the host."""

import numpy as np


def roc_auc(truth: np.ndarray, scores: np.ndarray) -> float:
  """The chance that a positive example scores above a negative one.

  Ties count one half. It is not a mergeable sum, so it needs every example's
  score.

  Args:
    truth: `[N]` of 0 and 1.
    scores: `[N]`, any monotone function of the probability of 1.

  Raises:
    ValueError: one of the two classes is absent.
  """
  positive = np.asarray(truth) > 0.5
  num_positive = int(positive.sum())
  num_negative = len(positive) - num_positive
  if not num_positive or not num_negative:
    raise ValueError(
      f'roc_auc: {num_positive} positive and {num_negative} negative examples; '
      'the area needs at least one of each.'
    )
  _, group, size = np.unique(scores, return_inverse=True, return_counts=True)
  mean_rank = np.cumsum(size) - (size - 1) / 2
  rank_sum = mean_rank[group[positive]].sum()
  above = rank_sum - num_positive * (num_positive + 1) / 2
  return float(above / (num_positive * num_negative))
