"""Synthetic features for the stand-ins, in which a gate has something to find.

A stand-in is only good for running code. It is made so that training shows
progress and modalities differ: each shows the signal of only some examples, and
on those it is worth paying for.
"""

import numpy as np

VERSION = 1
"""To be raised when any stand-in changes, so that cached ones are not used again."""


def view(
  rng: np.random.Generator,
  signal: np.ndarray,
  width: int,
  *,
  clear: float,
  noise: float,
) -> np.ndarray:
  """One modality's sight of a signal: `f32[N, width]`, about unit scale.

  Args:
    rng: where the projection, the noise and the choice of clear examples come from.
    signal: `[N, K]` what can be known, for example one-hot labels.
    width: of the features.
    clear: the share of examples whose signal shows; the others are noise alone.
    noise: its standard deviation, where a one-hot signal gives features of 1.
  """
  size, rank = signal.shape
  projection = rng.standard_normal((rank, width))
  visible = rng.random((size, 1)) < clear
  unseen = noise * rng.standard_normal((size, width))
  features = visible * (signal @ projection) + unseen
  return (features / np.hypot(1, noise)).astype(np.float32)


def labels(rng: np.random.Generator, size: int, num_classes: int) -> np.ndarray:
  """Balanced class numbers in random order: `i64[size]`."""
  return rng.permutation(np.arange(size) % num_classes)


def one_hot(label: np.ndarray, num_classes: int) -> np.ndarray:
  """`f64[N, num_classes]`."""
  return np.eye(num_classes)[label]
