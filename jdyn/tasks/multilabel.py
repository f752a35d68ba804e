"""Any subset of C labels per example."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jdyn.metrics import label_counts
from jdyn.tasks.task import Task, host_mean
from jdyn.typing import Batch, Mean, Outputs, weighted_mean


@dataclasses.dataclass(frozen=True)
class Multilabel(Task):
  """Labels `f32[B, C]` of 0 and 1, logits `[B, C]`; binary cross-entropy.

  Attributes:
    num_outputs: C, the number of labels.
  """

  num_outputs: int
  main_score: ClassVar[str] = 'macro_f1'
  score_names: ClassVar[tuple[str, ...]] = (
    'loss',
    'accuracy',
    'micro_f1',
    'macro_f1',
    'weighted_f1',
  )

  def loss(self, logits: jax.Array, batch: Batch) -> jax.Array:
    """The mean over labels of the binary cross-entropy, `f32[B]`, in nats."""
    losses = optax.sigmoid_binary_cross_entropy(
      logits.astype(jnp.float32), batch['label']
    )
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
