"""How much the classes of a label must count so that rare ones weigh as much."""

from collections.abc import Iterable

import numpy as np

from jdyn.data.dataset import DataError


def balanced_weights(label: np.ndarray) -> tuple[tuple[float, float], ...]:
  """Weights of the absence and of the presence of each label.

  The examples of either class add up to half of all examples, so that the mean weight
  of an example is 1. A label that all examples have, or none, counts 1.

  Args:
    label: `[N, C]` of 0 and 1, of the training split.
  """
  present = np.mean(label, axis=0, dtype=np.float64)
  return tuple(
    (0.5 / (1 - share), 0.5 / share) if 0 < share < 1 else (1.0, 1.0)
    for share in present.tolist()
  )


def median_frequency(
  labels: Iterable[np.ndarray], num_classes: int
) -> tuple[float, ...]:
  """Weights of classes of pixels: the median frequency over the class's own.

  A class's frequency is its share of all pixels, void ones among them, of the images
  that contain it (Eigen and Fergus, 2015; counted as ESANet does).

  Args:
    labels: `u8[H, W]` of each training image: 0 is void, class c is c + 1.
    num_classes: C.

  Raises:
    DataError: a class is in no image.
  """
  pixels = np.zeros(num_classes, np.int64)
  around = np.zeros(num_classes, np.int64)
  for label in labels:
    counts = np.bincount(label.ravel(), minlength=num_classes + 1)[1:]
    pixels += counts
    around += (counts > 0) * label.size
  if absent := (np.flatnonzero(pixels == 0) + 1).tolist():
    raise DataError(
      f'No training image has a pixel of the labels {absent}, so they have no median '
      "frequency. Take class_weights='logarithmic' or 'none', or more images."
    )
  frequency = pixels / around
  return tuple((np.median(frequency) / frequency).tolist())


def logarithmic(
  labels: Iterable[np.ndarray], num_classes: int, offset: float = 1.02
) -> tuple[float, ...]:
  """Weights of classes of pixels: one over the logarithm of `offset` + their share.

  The share is that of all pixels that are not void (Paszke et al., "ENet", 2016).

  Args:
    labels: as `median_frequency` takes them.
    num_classes: C.
    offset: the weight of a class that is absent is one over its logarithm.
  """
  pixels = sum(
    np.bincount(label.ravel(), minlength=num_classes + 1)[1:] for label in labels
  )
  return tuple((1 / np.log(offset + pixels / np.sum(pixels))).tolist())
