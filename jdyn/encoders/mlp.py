"""The multi-layer perceptron: encoder and head alike."""

from typing import Any

import jax
from flax import linen as nn

from jdyn.layers.dense import Dense
from jdyn.layers.dropout import Dropout
from jdyn.layers.join import flatten


class MLP(nn.Module):
  """Dense and ReLU per entry of `hidden`, then a Dense without activation.

  With `hidden=()` it is a linear layer. MultiBench's `MLP(i, h, o)` is
  `MLP(hidden=(h,), features=o)`; its dropout option returns the hidden layer
  instead of the output, here it drops hidden units.

  Attributes:
    features: width of the output; 0 for no last Dense.
    hidden: widths of the hidden layers.
    dropout: rate behind every hidden layer.
    axis_name: name of the mapped data axis, for dropout.
  """

  features: int = 0
  hidden: tuple[int, ...] = ()
  dropout: float = 0.0
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: Any, *, train: bool) -> jax.Array:
    """Maps `[B, ...]`, one flattened vector per example, to `[B, D]`."""
    x = flatten(x)
    for i, width in enumerate(self.hidden):
      x = nn.relu(Dense(width, name=f'dense_{i}')(x))
      x = Dropout(self.dropout, self.axis_name)(x, train=train)
    last = f'dense_{len(self.hidden)}'
    return Dense(self.features, name=last)(x) if self.features else x
