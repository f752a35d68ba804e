"""Cross-entropy of labelled pixels, for semantic segmentation (ESANet)."""

import jax
import jax.numpy as jnp
import optax


def pixel_loss(
  logits: jax.Array, label: jax.Array, class_weights: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
  """The loss of every pixel, and how much it counts.

  The original's loss of a batch is the sum of losses times weights over the sum of
  weights, over all pixels of all images (`jdyn.typing.weighted_mean`).

  Args:
    logits: `[B, H, W, C]`.
    label: `i32[B, H, W]`: 0 for void, else one more than the class.
    class_weights: `[C]`; 1 each if None.

  Returns:
    Loss and weight, both `[B, H, W]`; both are 0 where the label is void.
  """
  seen = label > 0
  label = jnp.maximum(label - 1, 0)
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
  weight = jnp.ones_like(loss) if class_weights is None else class_weights[label]
  return jnp.where(seen, loss, 0), jnp.where(seen, weight, 0)
