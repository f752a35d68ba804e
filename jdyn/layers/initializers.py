"""Initial weights: the distributions that PyTorch's layers start from.

The models that this library reproduces were trained from these, and none of
them overrides a bias in a way that matters, so biases start at zero here
(PyTorch draws them from the same interval as the weights).
"""

import jax
from flax import linen as nn

fan_in_uniform = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
"""U(±1/sqrt(fan_in)): `torch.nn.Linear` and `torch.nn.Conv*`."""

attention_uniform = nn.initializers.variance_scaling(1 / 2, 'fan_in', 'uniform')
"""U(±sqrt(6 / (d + 3d))): the query, key and value projections of
`torch.nn.MultiheadAttention`, which draws the three as one `[3d, d]` matrix."""


def symmetric_uniform(bound: float) -> nn.initializers.Initializer:
  """U(±bound), whatever the shape."""

  def init(key, shape, dtype=float):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init
