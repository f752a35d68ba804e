"""Random keys that do not depend on how many devices share a batch."""

import zlib
from collections.abc import Iterable

import jax
import jax.numpy as jnp


def named_keys(key: jax.Array, names: Iterable[str]) -> dict[str, jax.Array]:
  """One key per name, folded in by the name itself, so that order is no matter."""
  return {
    name: jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)
    for name in names
  }


def row_keys(key: jax.Array, rows: int, axis_name: str | None = None) -> jax.Array:
  """One key per row of this device's share of the batch: `[rows]` keys.

  A row's key is folded from its position in the *global* batch, which is a
  function of (seed, step): the noise of an example is the same on one device and
  on many.

  Args:
    key: the key of this step and use.
    rows: rows on this device.
    axis_name: the data axis under `pmap` or `shard_map`; None on one device.
  """
  first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * rows
  return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(rows))
