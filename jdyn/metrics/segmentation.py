"""Counts of pixels by true and predicted class, and the scores that follow."""

import jax
import jax.numpy as jnp
import numpy as np


def pixel_confusion(
  label: jax.Array, prediction: jax.Array, num_classes: int
) -> jax.Array:
  """Confusion counts of each image: `i32[B, C, C]`, rows are true classes.

  Whole numbers: float32 cannot tell 2**24 pixels from one more, and a few dozen
  images have as many.

  Args:
    label: `[B, H, W]`, one more than the class; what is not in `1..C` is not counted.
    prediction: `i32[B, H, W]`, a class.
    num_classes: C.
  """
  size, cells = label.shape[0], num_classes**2
  label = label.astype(jnp.int32)
  image = jnp.arange(size, dtype=jnp.int32)[:, None, None]
  place = image * cells + (label - 1) * num_classes + prediction
  seen = (label > 0) & (label <= num_classes)
  place = jnp.where(seen, place, size * cells)  # Out of range is dropped.
  counts = jnp.zeros(size * cells, jnp.int32).at[place.ravel()].add(1, mode='drop')
  return counts.reshape(size, num_classes, num_classes)


def segmentation_scores(confusion: np.ndarray) -> dict[str, float]:
  """Scores of `[C, C]` counts, rows being true classes.

  Returns:
    `miou`, the mean intersection over union of the classes that occur in truth;
    `miou_all`, that of all classes, 0 for one that never occurs, as DynMM counts it
    (they are equal on a whole test set); `pixel_accuracy`; and `mean_accuracy`, the
    mean share of the pixels of a class, of those that occur, that are found.
  """
  confusion = np.asarray(confusion, np.float64)
  found, truth, said = np.diag(confusion), confusion.sum(1), confusion.sum(0)
  iou = found / np.maximum(truth + said - found, 1)
  occurs = truth > 0
  count = max(occurs.sum(), 1)
  return {
    'miou': float(iou[occurs].sum() / count),
    'miou_all': float(iou.mean()),
    'pixel_accuracy': float(found.sum() / max(truth.sum(), 1)),
    'mean_accuracy': float((found[occurs] / truth[occurs]).sum() / count),
  }
