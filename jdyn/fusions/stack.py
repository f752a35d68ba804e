"""Stacking on a new last axis (MultiBench's `Stack`)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.typing import Fused


class Stack(nn.Module):
  """The inputs as channels of one array, in the sorted order of their names."""

  @nn.compact
  def __call__(self, inputs: Mapping[str, jax.Array], *, train: bool) -> Fused:
    """Stacks M arrays of one shape `[B, ...]` to `[B, ..., M]`."""
    del train
    return Fused(jnp.stack([inputs[name] for name in sorted(inputs)], axis=-1))
