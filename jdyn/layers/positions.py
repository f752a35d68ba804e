"""Fixed encodings of a step's place in a sequence."""

import jax
import jax.numpy as jnp


def sinusoidal_positions(num_steps: int, features: int) -> jax.Array:
  """Sines, then cosines, of the positions 1 to T, `[T, features]`.

  Frequencies fall geometrically from 1 to 1/10000, both included (tensor2tensor
  and fairseq; not the interleaved table of the first transformer). The last
  column of an odd width is zero.
  """
  half = features // 2
  frequencies = jnp.exp(-jnp.log(10000.0) * jnp.arange(half) / max(half - 1, 1))
  angles = jnp.arange(1, num_steps + 1)[:, None] * frequencies[None, :]
  table = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
  return jnp.pad(table, ((0, 0), (0, features - 2 * half)))
