"""Second moments of pairs of numbers, and Pearson's correlation from them."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np


def moments(x: jax.Array, y: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
  """The sums `n, x, y, xx, yy, xy` over pairs `[B]`, weighted by `f32[B]`.

  They are raw moments, so that partial sums merge by adding; in float32 the
  correlation is good to about 1e-5 as long as the means are within a few
  standard deviations of zero.
  """
  terms = {'n': jnp.ones_like(x), 'x': x, 'y': y, 'xx': x * x, 'yy': y * y, 'xy': x * y}
  return {name: jnp.sum(term * weights) for name, term in terms.items()}


def pearson(sums: Mapping[str, np.ndarray]) -> float:
  """Pearson's correlation; 0 where one side is constant and it does not exist."""
  total = {name: np.float64(value) for name, value in sums.items()}
  n = max(total['n'], 1)
  mean_x, mean_y = total['x'] / n, total['y'] / n
  var_x = total['xx'] / n - mean_x**2
  var_y = total['yy'] / n - mean_y**2
  # Below this a variance is rounding error of the float32 sums.
  tiny = 1e-6
  if var_x <= tiny * total['xx'] / n or var_y <= tiny * total['yy'] / n:
    return 0.0
  return float((total['xy'] / n - mean_x * mean_y) / np.sqrt(var_x * var_y))
