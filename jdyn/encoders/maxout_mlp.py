"""MaxOut_MLP: the encoder of MM-IMDB (Arevalo et al., 2017; MultiBench)."""

from typing import Any

import jax
from flax import linen as nn

from jdyn.layers.batch_norm import BatchNorm
from jdyn.layers.dense import Dense
from jdyn.layers.dropout import Dropout
from jdyn.layers.join import flatten
from jdyn.layers.maxout import Maxout


class MaxOutMLP(nn.Module):
  """BatchNorm of the input; then Maxout, BatchNorm and Dropout per layer.

  The first BatchNorm is the only normaliser of raw features, and has a larger
  epsilon than the others.

  Attributes:
    hidden: widths of the maxout layers.
    features: width of a final linear layer; 0 for none.
    pieces: affine maps per maxout unit.
    dropout: rate behind every maxout layer.
    input_epsilon: epsilon of the first BatchNorm.
    axis_name: name of the mapped data axis, for BatchNorm and dropout.
  """

  hidden: tuple[int, ...]
  features: int = 0
  pieces: int = 2
  dropout: float = 0.3
  input_epsilon: float = 1e-4
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: Any, *, train: bool) -> jax.Array:
    """Maps `[B, ...]`, one flattened vector per example, to `[B, D]`.

    `D` is `features`, or `hidden[-1]` without a final linear layer.
    """
    norm = BatchNorm(
      epsilon=self.input_epsilon, axis_name=self.axis_name, name='input_norm'
    )
    x = norm(flatten(x), train=train)
    for i, width in enumerate(self.hidden):
      x = Maxout(width, self.pieces, name=f'maxout_{i}')(x)
      x = BatchNorm(axis_name=self.axis_name, name=f'norm_{i}')(x, train=train)
      x = Dropout(self.dropout, self.axis_name)(x, train=train)
    return Dense(self.features, name='out')(x) if self.features else x
