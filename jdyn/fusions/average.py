"""The plain mean of the inputs: features of one width, or logits."""

from collections.abc import Mapping
from typing import ClassVar

import jax
from flax import linen as nn

from jdyn.fusions.votes import Masks, attendance, weighted
from jdyn.typing import Fused


class Average(nn.Module):
  """The mean over the inputs, each with the same weight."""

  context: ClassVar[tuple[str, ...]] = ('present',)
  weights_learn: ClassVar[bool] = False  # From what is made of them.

  @nn.compact
  def __call__(
    self, inputs: Mapping[str, jax.Array], *, train: bool, present: Masks | None = None
  ) -> Fused:
    """Averages arrays of one shape `[B, ...]`, of those that are present."""
    del train
    attending = attendance(inputs, present)
    size = sum(attending.values())
    weights = {name: mask / size for name, mask in attending.items()}
    return Fused(weighted(inputs, weights), weights=weights)
