"""Tensor fusion (Zadeh et al., EMNLP 2017): all products across modalities."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.typing import Fused


class TensorFusion(nn.Module):
  """The flattened outer product of the inputs, each with a 1 in front.

  The width is the product of all `D + 1`: the inputs should be small. The first
  name in sorted order varies slowest.
  """

  @nn.compact
  def __call__(self, inputs: Mapping[str, jax.Array], *, train: bool) -> Fused:
    """Maps arrays `[B, ..., D]` with the same leading axes to one of them."""
    del train

    def with_one(x):
      return jnp.concatenate([jnp.ones_like(x[..., :1]), x], axis=-1)

    def outer(x, y):
      product = x[..., :, None] * y[..., None, :]
      return product.reshape(*x.shape[:-1], -1)

    parts = [with_one(inputs[name]) for name in sorted(inputs)]
    return Fused(functools.reduce(outer, parts))
