"""The bilinear form of two vectors, contracted in the cheapest order."""

import jax
import jax.numpy as jnp
from flax import linen as nn


class Bilinear(nn.Module):
  """`y_d = sum_nm x_n z_m W_nmd + x U + z V + b`, for `x` and `z` of any width.

  Attributes:
    features: width of the output.
  """

  features: int

  @nn.compact
  def __call__(self, x: jax.Array, z: jax.Array) -> jax.Array:
    """Combines `[B, N]` and `[B, M]` to `[B, features]`."""
    n, m, d = x.shape[-1], z.shape[-1], self.features
    # PyTorch's Xavier rule, which counts the last axis as a receptive field.
    spread = nn.initializers.normal((2 / (d * (n + m))) ** 0.5)
    product = self.param('product', spread, (n, m, d))
    x_kernel = self.param('x_kernel', nn.initializers.xavier_normal(), (n, d))
    z_kernel = self.param('z_kernel', nn.initializers.xavier_normal(), (m, d))
    bias = self.param('bias', nn.initializers.zeros, (1, d))
    interaction = jnp.einsum(
      'bn,bm,nmd->bd', x, z, product, optimize=_contraction_order(n, m, d)
    )
    return interaction + x @ x_kernel + z @ z_kernel + bias


def _contraction_order(n: int, m: int, d: int) -> list[tuple[int, int]]:
  """The einsum path with the smallest intermediate array per example.

  The multiplications are the same in all three orders; the array in between is
  not: of 512 and 512 to 1024 features, 262,144 numbers against 524,288.
  """
  sizes = {
    (0, 1): n * m,  # the outer product of x and z first
    (0, 2): m * d,  # x into the kernel first
    (1, 2): n * d,  # z into the kernel first
  }
  first = min(sizes, key=sizes.get)
  return [first, (0, 1)]
