"""The plain mean of the inputs: features of one width, or logits."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.typing import Fused


class Average(nn.Module):
  """The mean over the inputs, each with the same weight."""

  @nn.compact
  def __call__(self, inputs: Mapping[str, jax.Array], *, train: bool) -> Fused:
    """Averages arrays of one shape `[B, ...]`."""
    del train
    names = sorted(inputs)
    value = sum(inputs[name] for name in names) / len(names)
    weight = jnp.full(value.shape[:1], 1 / len(names), value.dtype)
    return Fused(value, weights=dict.fromkeys(names, weight))
