"""Sums over views in which one may count more than another."""

from collections.abc import Mapping

import jax


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
