"""One pre-norm layer in which a sequence looks at another (MulT)."""

import jax
from flax import linen as nn

from jdyn.layers.attention import Attention
from jdyn.layers.dense import Dense
from jdyn.layers.dropout import Dropout


class CrossModalBlock(nn.Module):
  """Attention and a ReLU feed-forward net, each on normalised inputs.

  One LayerNorm serves the queries and the keys. The feed-forward net is four
  times as wide as the sequence.

  Attributes:
    heads: number of attention heads.
    attention_dropout: rate on the attention weights.
    hidden_dropout: rate on the hidden layer.
    residual_dropout: rate on what is added to the queries.
    axis_name: name of the mapped data axis, for dropout.
  """

  heads: int
  attention_dropout: float = 0.1
  hidden_dropout: float = 0.1
  residual_dropout: float = 0.1
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self, queries: jax.Array, keys: jax.Array, mask: jax.Array, *, train: bool
  ) -> jax.Array:
    """Transforms `queries` `[B, Q, D]`, which look at `keys` `[B, K, D]`.

    Args:
      queries: the steps to transform; the same as `keys` for self-attention.
      keys: the steps to look at.
      mask: `bool[B or 1, Q or 1, K]`, true where a query may look at a key.
      train: whether dropout is active.
    """

    def drop(x, rate):
      return Dropout(rate, self.axis_name)(x, train=train)

    width = queries.shape[-1]
    glorot = nn.initializers.glorot_uniform()
    norm = nn.LayerNorm(epsilon=1e-5, name='norm_0')
    attention = Attention(
      self.heads, self.attention_dropout, self.axis_name, name='attention'
    )
    found = attention(norm(queries), norm(keys), mask, train=train)
    x = queries + drop(found, self.residual_dropout)
    y = nn.LayerNorm(epsilon=1e-5, name='norm_1')(x)
    y = nn.relu(Dense(4 * width, kernel_init=glorot, name='dense_0')(y))
    y = drop(y, self.hidden_dropout)
    y = Dense(width, kernel_init=glorot, name='dense_1')(y)
    return x + drop(y, self.residual_dropout)
