"""The maxout unit (Goodfellow et al., ICML 2013)."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.layers.dense import Dense


class Maxout(nn.Module):
  """The largest of `pieces` affine maps, per feature.

  One flat `[in, features * pieces]` matrix: an `[in, features, pieces]` kernel
  under einsum has a backward pass two to three times slower on CPU. Feature j
  is the maximum over the adjacent columns `pieces * j, ..., pieces * (j+1) - 1`.

  Attributes:
    features: width of the output.
    pieces: number of affine maps per feature.
  """

  features: int
  pieces: int = 2

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[..., D]` to `[..., features]`."""
    y = Dense(self.features * self.pieces, name='dense')(x)
    y = y.reshape(*x.shape[:-1], self.features, self.pieces)
    # Not a reduction: XLA on CPU takes several times longer over an axis of two.
    return functools.reduce(jnp.maximum, [y[..., k] for k in range(self.pieces)])
