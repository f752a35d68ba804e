"""Sums over views: one may count more than another, or be absent."""

from collections.abc import Mapping

import jax

from jdyn.ops.presence import present_key
from jdyn.typing import Outputs


def weighted_sum(
  values: Mapping[str, jax.Array], factors: Mapping[str, float]
) -> jax.Array:
  """The sum of `values`, each times its factor; 1 where none is given.

  Raises:
    ValueError: a factor is for a name that has no value.
  """
  if unknown := sorted(set(factors) - set(values)):
    raise ValueError(
      f'loss.expert_weights names {unknown}, but the views are {sorted(values)}.'
    )
  return sum(factors.get(name, 1.0) * values[name] for name in sorted(values))


def where_present(outputs: Outputs, name: str, values: jax.Array) -> jax.Array:
  """Values `[B]` of a view, with 0 for the examples that it did not judge."""
  present = outputs.aux.get(present_key(name))
  return values if present is None else values * present.astype(values.dtype)
