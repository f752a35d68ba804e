"""One of C classes per pixel."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jdyn.metrics.segmentation import pixel_confusion, segmentation_scores
from jdyn.ops.pixel_loss import pixel_loss
from jdyn.ops.resize import bilinear_each
from jdyn.tasks.task import Task, host_mean
from jdyn.typing import Batch, Mean, Outputs, weighted_mean

_OUTSIDE = 255


@dataclasses.dataclass(frozen=True)
class Segmentation(Task):
  """Labels `u8[B, h, w]` and logits `[B, H, W, C]`; softmax cross-entropy.

  A label is 0 for void, which counts nowhere, and else one more than the class. Where
  labels are of another size than the logits, these are enlarged bilinearly to the
  true size of each label (255 stands outside of it), as ESANet is judged.

  Attributes:
    num_outputs: C, the number of classes.
    class_weights: what the loss of a pixel counts by its class; 1 each if empty.
  """

  num_outputs: int
  class_weights: tuple[float, ...] = ()
  main_score: ClassVar[str] = 'miou'
  score_names: ClassVar[tuple[str, ...]] = (
    'loss',
    'miou',
    'miou_all',
    'pixel_accuracy',
    'mean_accuracy',
  )
  keeps_logits: ClassVar[bool] = False
  record_names: ClassVar[tuple[str, ...]] = ('miou', 'pixel_accuracy')

  def loss(self, logits: jax.Array, batch: Batch) -> jax.Array:
    """Cross-entropy of every pixel `f32[B, h, w]`, in nats; 0 for void."""
    label = _label(batch)
    return pixel_loss(_at(logits.astype(jnp.float32), batch['label']), label)[0]

  def weights(self, batch: Batch) -> jax.Array:
    """What every pixel counts `f32[B, h, w]`; 0 for void and padding."""
    label = _label(batch)
    weights = jnp.asarray(self.class_weights or (1.0,) * self.num_outputs, jnp.float32)
    seen = (label > 0) * batch['mask'][:, None, None]
    return seen * weights[jnp.maximum(label - 1, 0)]

  def predict(self, logits: jax.Array) -> jax.Array:
    """The likeliest class of every pixel `i32[B, H, W]`; the first one of equals."""
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)

  def correct(self, logits: jax.Array, batch: Batch) -> jax.Array:
    """The share of each image's pixels whose class is right; void ones are left out."""
    label = _label(batch)
    hit = self.predict(_at(logits, batch['label'])) == label - 1
    seen = jnp.sum(label > 0, axis=(1, 2))
    return jnp.sum(hit, axis=(1, 2)) / jnp.maximum(seen, 1)

  def confidence(self, logits: jax.Array) -> jax.Array:
    """The probability of the likeliest class, mean over the pixels."""
    share = jax.nn.softmax(logits.astype(jnp.float32), axis=-1).max(axis=-1)
    return share.mean(axis=(1, 2))

  def true_probability(self, logits: jax.Array, batch: Batch) -> jax.Array:
    """The probability of the true class, mean over the pixels that have one."""
    seen = _label(batch) > 0
    share = jnp.exp(-self.loss(logits, batch)) * seen
    return share.sum(axis=(1, 2)) / jnp.maximum(seen.sum(axis=(1, 2)), 1)

  def sums(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array | Mean]:
    """`loss`, and the `confusion` counts `i32[C, C]` (rows are true classes)."""
    counts = self.kept(outputs.logits, batch)
    real = batch['mask'].astype(jnp.int32)[:, None, None]
    return {
      'loss': weighted_mean(self.loss(outputs.logits, batch), self.weights(batch)),
      'confusion': jnp.sum(counts * real, axis=0),
    }

  def scores(self, sums: Mapping[str, np.ndarray | Mean]) -> dict[str, float]:
    """Loss, intersection over union and accuracies."""
    return {
      'loss': host_mean(sums['loss']),
      **segmentation_scores(sums['confusion']),
    }

  @property
  def kept_shape(self) -> tuple[int, ...]:
    """Of the counts of one image."""
    return self.num_outputs, self.num_outputs

  def kept(self, logits: jax.Array, batch: Batch) -> jax.Array:
    """Confusion counts of each image `i32[B, C, C]`: logits would fill disks."""
    at = _at(logits, batch['label'])
    return pixel_confusion(batch['label'], self.predict(at), self.num_outputs)

  def kept_label(self, label: np.ndarray) -> np.ndarray:
    """`[N, 0]`, nothing: the counts have it."""
    return np.zeros((len(label), 0), np.uint8)

  def kept_scores(self, kept: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """All scores of `N` images but the loss, of which no trace was kept."""
    del label
    return segmentation_scores(np.sum(kept, axis=0, dtype=np.int64))

  def kept_correct(self, kept: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The share of each image's pixels whose class is right `[N]`."""
    return self.records(kept, label)[1]

  def records(self, kept: np.ndarray, label: np.ndarray) -> list[np.ndarray]:
    """Mean intersection over union, and pixel accuracy, of each image `[N]`."""
    del label
    each = [segmentation_scores(counts) for counts in kept]
    return [np.array([one[name] for one in each]) for name in self.record_names]


def _label(batch: Batch) -> jax.Array:
  """`i32[B, h, w]`, 0 for void and outside of the image."""
  label = jnp.asarray(batch['label']).astype(jnp.int32)
  return jnp.where(label == _OUTSIDE, 0, label)


def _at(logits: jax.Array, label: jax.Array) -> jax.Array:
  """Logits at the size of the labels."""
  if logits.shape[1:3] == label.shape[1:3]:
    return logits
  inside = jnp.asarray(label) != _OUTSIDE
  sizes = jnp.stack([inside[:, :, 0].sum(axis=1), inside[:, 0].sum(axis=1)], axis=1)
  return bilinear_each(logits, sizes, label.shape[1:3])
