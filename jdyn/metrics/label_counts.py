"""Counts of right and wrong decisions by label, for multilabel tasks."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jdyn.metrics import f1


def label_counts(
  truth: jax.Array, prediction: jax.Array, weights: jax.Array
) -> dict[str, jax.Array]:
  """Sums `tp`, `fp`, `fn`, `tn`, each `f32[C]`.

  Args:
    truth: `[B, C]` of 0 and 1.
    prediction: `[B, C]` of 0 and 1.
    weights: `f32[B]`, 0 for padding.
  """
  truth, prediction = truth > 0.5, prediction > 0.5

  def count(cells):
    return jnp.sum(cells * weights[:, None], axis=0)

  return {
    'tp': count(truth & prediction),
    'fp': count(~truth & prediction),
    'fn': count(truth & ~prediction),
    'tn': count(~truth & ~prediction),
  }


def label_accuracy(counts: Mapping[str, np.ndarray]) -> float:
  """The share of right decisions over all labels; 0 where nothing was counted."""
  total = {name: float(np.sum(count)) for name, count in counts.items()}
  return (total['tp'] + total['tn']) / max(sum(total.values()), 1)


def label_f1(counts: Mapping[str, np.ndarray]) -> dict[str, float]:
  """Micro, macro and weighted F1; a label that never occurs counts as 0."""
  return f1.f1_scores(counts['tp'], counts['fp'], counts['fn'])
