"""What fusions of votes share: logits of experts, some of whom may be absent.

Such a fusion has an attribute `context` that names what else it is called with:
`present`, masks by expert, and `hidden`, the features behind the logits.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

Masks = Mapping[str, jax.Array]
"""`bool[B]` by expert; an expert without one votes on every example."""


def attendance(
  votes: Mapping[str, jax.Array], present: Masks | None
) -> dict[str, jax.Array]:
  """Per vote 1 where it counts and 0 where the expert is absent: `[B]`.

  Where all are absent, all count: what they say of blank inputs is all there is.
  """
  ones = {
    name: jnp.ones(votes[name].shape[:1], votes[name].dtype) for name in sorted(votes)
  }
  if not present:
    return ones
  found = {name: one * present.get(name, True) for name, one in ones.items()}
  nobody = sum(found.values()) == 0
  return {name: jnp.where(nobody, ones[name], mask) for name, mask in found.items()}


def weighted(
  votes: Mapping[str, jax.Array], weights: Mapping[str, jax.Array]
) -> jax.Array:
  """The sum of votes `[B, ...]`, each times its weight `[B]`."""
  return sum(_per_example(weights[name], votes[name]) for name in sorted(votes))


def _per_example(weight: jax.Array, vote: jax.Array) -> jax.Array:
  return vote * weight.reshape(-1, *[1] * (vote.ndim - 1))


def normalized(scores: Mapping[str, jax.Array], how: str, attending: Masks) -> Masks:
  """Scores `[B]` by expert to weights, of which an absent expert has 0.

  Args:
    scores: the greater, the more weight.
    how: `none` leaves them as they are, `sum` divides them by their sum, `softmax`
      makes them positive with sum 1.
    attending: 1 or 0 by expert.

  Raises:
    ValueError: `how` is none of these.
  """
  names = sorted(scores)
  if how == 'softmax':
    stacked = jnp.stack([scores[name] for name in names], axis=-1)
    there = jnp.stack([attending[name] for name in names], axis=-1) > 0
    shares = jax.nn.softmax(stacked, axis=-1, where=there)
    return {name: shares[..., k] for k, name in enumerate(names)}
  weights = {name: scores[name] * attending[name] for name in names}
  if how == 'none':
    return weights
  if how != 'sum':
    raise ValueError(f'Unknown normalize={how!r}; expected none, softmax or sum.')
  total = sum(weights.values())
  return {name: weight / total for name, weight in weights.items()}
