"""The free energy of a classifier, which says how much it has seen of an input."""

import jax


def log_partition(logits: jax.Array, temperature: float = 1.0) -> jax.Array:
  """`T log sum_k exp(logits_k / T)` over the last axis: the negative free energy.

  The greater, the likelier the input under the density that a softmax classifier
  implies (Liu et al., NeurIPS 2020). Adding a constant to all logits changes it, and
  no probability.

  Args:
    logits: `[..., C]`.
    temperature: T > 0.
  """
  return temperature * jax.nn.logsumexp(logits / temperature, axis=-1)
