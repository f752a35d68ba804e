"""No encoder: the raw features."""

from typing import Any

from flax import linen as nn

from jdyn.layers.join import flatten


class Identity(nn.Module):
  """The modality itself.

  Attributes:
    flatten: give one vector `[B, D]` per example; otherwise the modality goes
      through untouched, for a fusion that reads sequences.
  """

  flatten: bool = True

  @nn.compact
  def __call__(self, x: Any, *, train: bool) -> Any:
    """Returns `x` as `[B, D]`, or as it is."""
    del train  # There is nothing to train.
    return flatten(x) if self.flatten else x
