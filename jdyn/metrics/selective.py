"""Selective prediction: what abstaining on the least sure examples would save.

The scores are those of QMF's released `utils/metrics.py` but for three points: ties of
the confidence do not depend on the order of the examples, the excess area is defined
where every answer is wrong, and the false-positive rate is at the first threshold that
reaches 95 % (the released one takes the nearest, which may lie below).
"""

import math

import numpy as np

from jdyn.metrics.average_precision import average_precision

TPR = 0.95
"""Share of the right answers that must be accepted, where false ones are counted."""


def risk_coverage(
  confidence: np.ndarray, correct: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Share of wrong answers among the `k` surest examples, for `k` from 1 to N.

  Among examples of the same confidence every order is as good as any other; the risk
  is its expectation over them.

  Args:
    confidence: `[N]`, greater where surer.
    correct: `[N]` of 0 and 1.

  Returns:
    Coverage `k / N` and risk, `[N]` each.

  Raises:
    ValueError: there are no examples.
  """
  wrong = 1 - np.asarray(correct, np.float64)
  if not wrong.size:
    raise ValueError('risk_coverage: no examples; give at least one confidence.')
  _, group = np.unique(np.negative(confidence), return_inverse=True)
  rate = np.bincount(group, wrong) / np.bincount(group)
  kept = np.arange(1, len(wrong) + 1)
  return kept / len(wrong), np.cumsum(rate[np.sort(group)]) / kept


def area_under_risk(risk: np.ndarray) -> float:
  """AURC: the mean risk over all coverages (Geifman et al., ICLR 2019)."""
  return float(np.mean(risk))


def excess_area_under_risk(risk: np.ndarray) -> float:
  """E-AURC: AURC less `r + (1 - r) ln(1 - r)`, the best possible with `r` errors.

  That bound is the limit of many examples, so a perfect order of few lies a little
  above 0. It is 1 where everything is wrong.
  """
  from scipy import special

  risk_of_all = float(risk[-1])
  right = 1 - risk_of_all
  return area_under_risk(risk) - (risk_of_all + float(special.xlogy(right, right)))


def success_precision(confidence: np.ndarray, correct: np.ndarray) -> float:
  """AUPR (success): average precision of finding right answers by confidence.

  NaN where no answer is right.
  """
  return average_precision(correct, confidence) if np.any(correct) else math.nan


def false_positive_rate(
  confidence: np.ndarray, correct: np.ndarray, tpr: float = TPR
) -> float:
  """Share of the wrong answers that is accepted when `tpr` of the right ones are.

  NaN where all answers are right, or all are wrong.
  """
  from sklearn import metrics

  if not 0 < np.sum(correct) < len(correct):
    return math.nan
  fpr, reached, _ = metrics.roc_curve(correct, confidence, drop_intermediate=False)
  return float(fpr[np.searchsorted(reached, tpr)])


def selective_scores(confidence: np.ndarray, correct: np.ndarray) -> dict[str, float]:
  """`aurc`, `e_aurc`, `aupr_success` and `fpr_at_95_tpr`.

  Args:
    confidence: `[N]`, greater where surer.
    correct: `[N]` of 0 and 1.
  """
  _, risk = risk_coverage(confidence, correct)
  return {
    'aurc': area_under_risk(risk),
    'e_aurc': excess_area_under_risk(risk),
    'aupr_success': success_precision(confidence, correct),
    'fpr_at_95_tpr': false_positive_rate(confidence, correct),
  }
