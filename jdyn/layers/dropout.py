"""Dropout whose masks do not depend on the number of devices."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.extend.random import threefry_2x32


class Dropout(nn.Module):
  """Zeroes entries at random and scales up the rest.

  The mask of an example is keyed by its row in the global batch, so one device
  with 128 rows and four with 32 rows drop the same entries.

  Attributes:
    rate: probability that an entry is dropped, in [0, 1).
    axis_name: name of the mapped data axis, if the batch is split over one.
  """

  rate: float
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Drops entries of `x` `[B, ...]` if `train`; rng stream `dropout`."""
    if not train or not self.rate or self.is_initializing():
      return x
    rows = jnp.arange(x.shape[0], dtype=jnp.uint32)
    if self.axis_name is not None:
      rows += lax.axis_index(self.axis_name).astype(jnp.uint32) * x.shape[0]
    bits = _random_bits(self.make_rng('dropout'), rows, x[0].size)
    keep = bits.reshape(x.shape) >= jnp.uint32(round(self.rate * 2**32))
    return jnp.where(keep, x / (1 - self.rate), 0)


def _random_bits(key: jax.Array, rows: jax.Array, columns: int) -> jax.Array:
  """`u32[B, columns]`: the bits of an entry depend on key, row and column only.

  Row and column are the counter of one threefry call. A key per row, folded and
  vmapped, would do the same with four times the compile time, and a model has
  dozens of these.
  """
  half = -(-columns // 2)  # A call gives two words per counter.
  counters = jnp.meshgrid(rows, jnp.arange(half, dtype=jnp.uint32), indexing='ij')
  words = threefry_2x32(jax.random.key_data(key)[:2], jnp.stack(counters))
  return jnp.concatenate(list(words), axis=1)[:, :columns]
