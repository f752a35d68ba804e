"""Concatenation, the fusion of DynMM's late-fusion experts."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.typing import Fused


class Concat(nn.Module):
  """The inputs side by side, in the sorted order of their names.

  A linear head behind it is MultiBench's `ConcatWithLinear`.

  Attributes:
    flatten: make each input one vector first; otherwise all axes but the last
      must agree (MultiBench's `ConcatEarly`).
  """

  flatten: bool = True

  @nn.compact
  def __call__(self, inputs: Mapping[str, jax.Array], *, train: bool) -> Fused:
    """Concatenates arrays `[B, ...]` to `[B, D]`, or on their last axis."""
    del train
    parts = [inputs[name] for name in sorted(inputs)]
    if self.flatten:
      parts = [part.reshape(part.shape[0], -1) for part in parts]
    return Fused(jnp.concatenate(parts, axis=-1))
