"""Any subset of C labels per example."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jdyn.metrics import label_counts
from jdyn.metrics.average_precision import average_precision
from jdyn.metrics.roc_auc import roc_auc
from jdyn.tasks.task import Task, host_mean
from jdyn.typing import Batch, Mean, Outputs, weighted_mean


@dataclasses.dataclass(frozen=True)
class Multilabel(Task):
  """Labels `f32[B, C]` of 0 and 1, logits `[B, C]`; binary cross-entropy.

  Attributes:
    num_outputs: C, the number of labels.
    class_weights: of each label, what the loss of its absence and of its presence
      counts, where they are to count other than 1; with mean 1 over the training
      examples, losses stay comparable.
  """

  num_outputs: int
  class_weights: tuple[tuple[float, float], ...] = ()
  main_score: ClassVar[str] = 'macro_f1'
  score_names: ClassVar[tuple[str, ...]] = (
    'loss',
    'accuracy',
    'micro_f1',
    'macro_f1',
    'weighted_f1',
  )

  def loss(self, logits: jax.Array, batch: Batch) -> jax.Array:
    """The mean over labels of the binary cross-entropy, `f32[B]`, in nats.

    Weights do not normalise: PyTorch divides by the sum of those in the batch, so
    that there a batch of easy examples counts as much as one of hard ones.
    """
    label = batch['label']
    losses = optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), label)
    if self.class_weights:
      absent, present = jnp.array(self.class_weights, jnp.float32).T[:, None]
      losses *= jnp.where(label > 0.5, present, absent)
    return losses.mean(axis=-1)

  def predict(self, logits: jax.Array) -> jax.Array:
    """1 for labels of more than even odds, else 0: `i32[B, C]`."""
    return (logits > 0).astype(jnp.int32)

  def correct(self, logits: jax.Array, batch: Batch) -> jax.Array:
    """F1 of each example's set of labels; 1 where both sets are empty.

    The share of right labels would be near 1 for a model that says nothing,
    since most labels are absent.
    """
    truth, prediction = batch['label'] > 0.5, logits > 0
    both = jnp.sum(truth & prediction, axis=-1)
    size = jnp.sum(truth, axis=-1) + jnp.sum(prediction, axis=-1)
    return jnp.where(size == 0, 1.0, 2 * both / jnp.maximum(size, 1))

  def confidence(self, logits: jax.Array) -> jax.Array:
    """The probability of the decision on a label, mean over the labels."""
    return jax.nn.sigmoid(jnp.abs(logits.astype(jnp.float32))).mean(axis=-1)

  def true_probability(self, logits: jax.Array, batch: Batch) -> jax.Array:
    """The probability of the true value of a label, mean over the labels."""
    sign = 2 * batch['label'] - 1
    return jax.nn.sigmoid(sign * logits.astype(jnp.float32)).mean(axis=-1)

  def sums(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array | Mean]:
    """`loss`, and the counts `tp`, `fp`, `fn`, `tn`, each `f32[C]`."""
    weights = self.weights(batch)
    counts = label_counts.label_counts(
      batch['label'], self.predict(outputs.logits), weights
    )
    return {
      'loss': weighted_mean(self.loss(outputs.logits, batch), weights),
      **counts,
    }

  def scores(self, sums: Mapping[str, np.ndarray | Mean]) -> dict[str, float]:
    """Loss, accuracy over all labels, and F1."""
    counts = {name: sums[name] for name in ('tp', 'fp', 'fn', 'tn')}
    f1 = label_counts.label_f1(counts)
    return {
      'loss': host_mean(sums['loss']),
      'accuracy': label_counts.label_accuracy(counts),
      **{f'{average}_f1': value for average, value in f1.items()},
    }

  def scores_of_all(self, logits: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Means over the labels of the areas under the ROC and precision-recall curves.

    Labels that all examples have, or none, have no curve and do not count.
    """
    truth = label > 0.5
    varying = np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0))
    if not varying.size:
      return {}
    areas = {'macro_auc': roc_auc, 'macro_average_precision': average_precision}
    return {
      name: float(np.mean([area(truth[:, k], logits[:, k]) for k in varying]))
      for name, area in areas.items()
    }
