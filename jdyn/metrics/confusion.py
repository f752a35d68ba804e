"""The confusion matrix: a mergeable sum, and the scores that follow from it."""

import jax
import numpy as np

from jdyn.metrics import f1


def confusion_matrix(
  truth: jax.Array, prediction: jax.Array, weights: jax.Array, num_classes: int
) -> jax.Array:
  """Counts `f32[C, C]`: rows are true classes, columns predicted ones.

  Args:
    truth: `i32[B]`.
    prediction: `i32[B]`.
    weights: `f32[B]`, 0 for padding.
    num_classes: C. A class outside of `[0, C)` is not counted.
  """
  rows = jax.nn.one_hot(truth, num_classes) * weights[:, None]
  return rows.T @ jax.nn.one_hot(prediction, num_classes)


def accuracy(confusion: np.ndarray) -> float:
  """The share of examples on the diagonal; 0 where nothing was counted."""
  confusion = np.asarray(confusion, np.float64)
  return float(np.trace(confusion) / max(confusion.sum(), 1))


def confusion_f1(confusion: np.ndarray) -> dict[str, float]:
  """Micro, macro and weighted F1 over the classes that occur.

  As in scikit-learn, a class with neither a true nor a predicted example is
  left out of the macro average.
  """
  confusion = np.asarray(confusion, np.float64)
  tp = np.diag(confusion)
  true, predicted = confusion.sum(1), confusion.sum(0)
  occurs = (true + predicted) > 0
  return f1.f1_scores(tp[occurs], (predicted - tp)[occurs], (true - tp)[occurs])


def phi(confusion: np.ndarray) -> float:
  """Pearson's correlation of two binary vectors, from their `[2, 2]` counts.

  0 where one side is constant and the correlation does not exist.
  """
  (tn, fp), (fn, tp) = np.asarray(confusion, np.float64)
  scale = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
  return float((tp * tn - fp * fn) / scale) if scale else 0.0
