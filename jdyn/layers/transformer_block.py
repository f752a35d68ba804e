"""One post-norm transformer layer, as `torch.nn.TransformerEncoderLayer`."""

import jax
from flax import linen as nn

from jdyn.layers.attention import Attention
from jdyn.layers.dense import Dense
from jdyn.layers.dropout import Dropout


class TransformerBlock(nn.Module):
  """Attention and a ReLU feed-forward net, each added and then normalised.

  Attributes:
    heads: number of attention heads.
    feedforward: width of the hidden layer of the feed-forward net.
    dropout: rate on attention weights, hidden layer and both residuals.
    axis_name: name of the mapped data axis, for dropout.
  """

  heads: int
  feedforward: int = 2048
  dropout: float = 0.1
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self, queries: jax.Array, keys: jax.Array, mask: jax.Array, *, train: bool
  ) -> jax.Array:
    """Transforms `queries` `[B, Q, D]`, which look at `keys` `[B, K, D]`.

    Self-attention passes the same steps as both; passing fewer queries gives
    the same rows of the result for less work.

    Args:
      queries: the steps to transform.
      keys: the steps to look at.
      mask: `bool[B or 1, Q or 1, K]`, true where a query may look at a key.
      train: whether dropout is active.
    """

    def drop(x):
      return Dropout(self.dropout, self.axis_name)(x, train=train)

    def norm(x, name):
      return nn.LayerNorm(epsilon=1e-5, name=name)(x)

    attention = Attention(self.heads, self.dropout, self.axis_name, name='attention')
    x = norm(queries + drop(attention(queries, keys, mask, train=train)), 'norm_0')
    hidden = drop(nn.relu(Dense(self.feedforward, name='dense_0')(x)))
    return norm(x + drop(Dense(x.shape[-1], name='dense_1')(hidden)), 'norm_1')
