"""How much the classes of a label must count so that rare ones weigh as much."""

import numpy as np


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
