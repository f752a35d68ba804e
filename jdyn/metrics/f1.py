"""F1 from counts: harmonic mean of precision and recall, averaged three ways."""

import numpy as np


def f1_scores(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> dict[str, float]:
  """Micro, macro and weighted F1 from true and false positives and negatives.

  A class without any true or predicted example scores 0 (scikit-learn's
  `zero_division=0`) and counts in the macro average; leave it out of the
  arguments where it should not.

  Args:
    tp: `[C]`, examples of the class that were found.
    fp: `[C]`, examples of others that were taken for the class.
    fn: `[C]`, examples of the class that were missed.

  Returns:
    `micro` (of the pooled counts), `macro` (mean over classes) and `weighted`
    (mean over classes by their number of true examples).
  """
  tp, fp, fn = (np.asarray(count, np.float64) for count in (tp, fp, fn))
  support = tp + fn
  per_class = _ratio(2 * tp, 2 * tp + fp + fn)
  return {
    'micro': float(_ratio(2 * tp.sum(), 2 * tp.sum() + fp.sum() + fn.sum())),
    'macro': float(_ratio(per_class.sum(), per_class.size)),
    'weighted': float(_ratio((per_class * support).sum(), support.sum())),
  }


def _ratio(numerator, denominator):
  """The quotient; 0 where the denominator is 0."""
  return numerator / np.where(denominator == 0, 1, denominator)
