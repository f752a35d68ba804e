"""One of C classes per example."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jdyn.metrics import calibration, confusion
from jdyn.metrics.average_precision import average_precision
from jdyn.metrics.roc_auc import roc_auc
from jdyn.tasks.task import Task, host_mean
from jdyn.typing import Batch, Mean, Outputs, weighted_mean


@dataclasses.dataclass(frozen=True)
class Multiclass(Task):
  """Labels `i32[B]` and logits `[B, C]`; softmax cross-entropy.

  Attributes:
    num_outputs: C, the number of classes.
  """

  num_outputs: int
  main_score: ClassVar[str] = 'accuracy'
  score_names: ClassVar[tuple[str, ...]] = (
    'loss',
    'accuracy',
    'macro_f1',
    'weighted_f1',
  )

  def loss(self, logits: jax.Array, batch: Batch) -> jax.Array:
    """Cross-entropy `f32[B]`, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(
      logits.astype(jnp.float32), batch['label']
    )

  def predict(self, logits: jax.Array) -> jax.Array:
    """The likeliest class `i32[B]`; the first one of equals."""
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)

  def correct(self, logits: jax.Array, batch: Batch) -> jax.Array:
    """1 where the class is right, else 0."""
    return (self.predict(logits) == batch['label']).astype(jnp.float32)

  def confidence(self, logits: jax.Array) -> jax.Array:
    """The probability of the likeliest class."""
    return jax.nn.softmax(logits.astype(jnp.float32), axis=-1).max(axis=-1)

  def true_probability(self, logits: jax.Array, batch: Batch) -> jax.Array:
    """The probability of the true class."""
    return jnp.exp(-self.loss(logits, batch))

  def sums(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array | Mean]:
    """`loss`, and the `confusion` counts `f32[C, C]` (rows are true classes)."""
    weights = self.weights(batch)
    return {
      'loss': weighted_mean(self.loss(outputs.logits, batch), weights),
      'confusion': confusion.confusion_matrix(
        batch['label'], self.predict(outputs.logits), weights, self.num_outputs
      ),
    }

  def scores(self, sums: Mapping[str, np.ndarray | Mean]) -> dict[str, float]:
    """Loss, accuracy and F1; micro F1 is left out, since it is the accuracy."""
    f1 = confusion.confusion_f1(sums['confusion'])
    return {
      'loss': host_mean(sums['loss']),
      'accuracy': confusion.accuracy(sums['confusion']),
      'macro_f1': f1['macro'],
      'weighted_f1': f1['weighted'],
    }

  def scores_of_all(self, logits: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """`ece` and `brier`; the `loss` is the negative log-likelihood.

    With two classes also, of class 1, F1 and two areas under curves: `auc`, that of
    the ROC curve, and `average_precision`, that of precision over recall. The areas are
    left out where one of the classes is absent.
    """
    calibrated = {
      'ece': calibration.ece(logits, label),
      'brier': calibration.brier(logits, label),
    }
    if self.num_outputs != 2:
      return calibrated
    margin = np.subtract(logits[:, 1], logits[:, 0], dtype=np.float64)
    truth, found = label == 1, margin > 0
    size = np.sum(truth) + np.sum(found)
    scores = calibrated | {'f1': float(2 * np.sum(truth & found) / max(size, 1))}
    if 0 < np.sum(truth) < len(truth):
      scores['auc'] = roc_auc(truth, margin)
      scores['average_precision'] = average_precision(truth, margin)
    return scores
