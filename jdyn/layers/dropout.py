"""Dropout whose masks do not depend on the number of devices."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.ops.random import row_keys


class Dropout(nn.Module):
  """Zeroes entries at random and scales up the rest.

  The mask of an example is keyed by its row in the global batch, so one device
  with 128 rows and four with 32 rows drop the same entries.

  Attributes:
    rate: probability that an entry is dropped.
    axis_name: name of the mapped data axis, if the batch is split over one.
  """

  rate: float
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Drops entries of `x` `[B, ...]` if `train`; rng stream `dropout`."""
    if not train or not self.rate or self.is_initializing():
      return x
    keys = row_keys(self.make_rng('dropout'), x.shape[0], self.axis_name)

    def keep_row(key):
      return jax.random.bernoulli(key, 1 - self.rate, x.shape[1:])

    return jnp.where(jax.vmap(keep_row)(keys), x / (1 - self.rate), 0)
