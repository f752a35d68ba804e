"""Scores of sentiment in [-3, 3], as CMU-MOSI and CMU-MOSEI are reported.

Two conventions of binary accuracy are in use, and papers seldom say which:

- `has0`: at least 0 is positive, for prediction and truth, over all examples
  (DynMM's `Supervised_Learning.py`);
- `non0`: above 0 is positive, over the examples whose truth is not 0
  (MultiBench's `performance.py`).

`acc5` and `acc7` clip both sides to +-2 and +-3 and round half to even.
DynMM's `Corr` is not the correlation of the regression but that of the two
binarised vectors; here it is named `phi_has0`.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jdyn.metrics import confusion


def sentiment_sums(
  truth: jax.Array, prediction: jax.Array, weights: jax.Array
) -> dict[str, jax.Array]:
  """Confusion matrices `has0`, `non0` (2x2), `five` and `seven` of values `[B]`."""

  def binary(truth, prediction, weights):
    truth, prediction = truth.astype(jnp.int32), prediction.astype(jnp.int32)
    return confusion.confusion_matrix(truth, prediction, weights, 2)

  def levels(limit):
    truth_level, predicted_level = (
      jnp.round(jnp.clip(value, -limit, limit)).astype(jnp.int32) + limit
      for value in (truth, prediction)
    )
    return confusion.confusion_matrix(
      truth_level, predicted_level, weights, 2 * limit + 1
    )

  return {
    'has0': binary(truth >= 0, prediction >= 0, weights),
    'non0': binary(truth > 0, prediction > 0, weights * (truth != 0)),
    'five': levels(2),
    'seven': levels(3),
  }


def sentiment_scores(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
  """Accuracies and weighted F1 under both conventions, and `phi_has0`."""
  return {
    'acc2_has0': confusion.accuracy(sums['has0']),
    'acc2_non0': confusion.accuracy(sums['non0']),
    'f1_has0': confusion.confusion_f1(sums['has0'])['weighted'],
    'f1_non0': confusion.confusion_f1(sums['non0'])['weighted'],
    'acc5': confusion.accuracy(sums['five']),
    'acc7': confusion.accuracy(sums['seven']),
    'phi_has0': confusion.phi(sums['has0']),
  }
