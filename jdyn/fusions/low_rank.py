"""Low-rank tensor fusion (Liu et al., ACL 2018).

MultiBench keeps the factors in a plain list, where the optimiser does not find
them: they stay at their initial values and are missing from its checkpoints.
Here they are trained; `train_factors=False` is the released behaviour.
"""

import functools
import operator
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.typing import Fused


class LowRankFusion(nn.Module):
  """A tensor fusion followed by a linear layer whose weights have a low rank.

  `sum_r w_r * prod_m (x_m V_m,r + v_m,r) + b`. The factor of one modality, for
  all ranks, is one `[1 + D, rank * features]` matrix whose row 0 is `v_m`.

  Attributes:
    features: width of the output.
    rank: number of rank-one terms.
    train_factors: whether gradients reach the factors.
  """

  features: int
  rank: int
  train_factors: bool = True

  @nn.compact
  def __call__(self, inputs: Mapping[str, jax.Array], *, train: bool) -> Fused:
    """Maps arrays `[B, ...]`, flattened to vectors, to `[B, features]`."""
    del train
    terms = [self._factor(name, inputs[name]) for name in sorted(inputs)]
    product = functools.reduce(operator.mul, terms)
    weights = self.param(
      'rank_weights', nn.initializers.xavier_normal(), (self.rank, 1)
    )
    bias = self.param('bias', nn.initializers.zeros, (1, self.features))
    return Fused(jnp.einsum('brd,r->bd', product, weights[:, 0]) + bias)

  def _factor(self, name: str, x: jax.Array) -> jax.Array:
    """`[B, rank, features]`: one modality under its factor."""
    x = x.reshape(x.shape[0], -1)
    # PyTorch's Xavier rule for a [rank, D + 1, features] tensor, which counts the
    # last axis as a receptive field.
    fans = self.features * (x.shape[-1] + 1 + self.rank)
    init = nn.initializers.normal((2 / fans) ** 0.5)
    shape = (x.shape[-1] + 1, self.rank * self.features)
    factor = self.param(f'factor_{name}', init, shape)
    if not self.train_factors:
      factor = jax.lax.stop_gradient(factor)
    return (x @ factor[1:] + factor[:1]).reshape(-1, self.rank, self.features)
