"""Gate weights from logits: soft, straight-through, and both with Gumbel noise.

Source: DynMM (Xue and Marculescu, CVPR-W 2023), Eq. 3. The paper's equation has
Gumbel noise; its released modality-level code has none, which is `noise=None`.
"""

import jax
import jax.numpy as jnp


def straight_through(
  logits: jax.Array,
  *,
  temperature: jax.Array | float = 1.0,
  hard: jax.Array | bool = True,
  noise: jax.Array | None = None,
) -> jax.Array:
  """Weights over `K` paths: `[..., K]`, rows sum to one.

  Args:
    logits: `[..., K]`.
    temperature: of the softmax; traced, so that annealing does not recompile.
    hard: traced; if true the forward value is exactly one-hot and the gradient is
      that of the softmax, otherwise the softmax itself is returned.
    noise: added to the logits, for instance Gumbel noise `[..., K]`.
  """
  if noise is not None:
    logits = logits + noise
  soft = jax.nn.softmax(logits / temperature, axis=-1)
  one_hot = jax.nn.one_hot(
    jnp.argmax(soft, axis=-1), logits.shape[-1], dtype=soft.dtype
  )
  # In this order the forward value is 0 or 1 whatever `soft` is: x - x is exactly 0.
  hard_weights = one_hot + (soft - jax.lax.stop_gradient(soft))
  return jnp.where(hard, hard_weights, soft)
