"""Multi-head attention with the semantics of `torch.nn.MultiheadAttention`."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.layers.dense import Dense
from jdyn.layers.dropout import Dropout
from jdyn.layers.initializers import attention_uniform


class Attention(nn.Module):
  """Scaled dot-product attention, `heads` times side by side.

  Attributes:
    heads: number of heads; divides the width of the queries.
    dropout: rate on the attention weights.
    axis_name: name of the mapped data axis, for dropout.
  """

  heads: int
  dropout: float = 0.0
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self, queries: jax.Array, keys: jax.Array, mask: jax.Array, *, train: bool
  ) -> jax.Array:
    """Looks up `queries` `[B, Q, D]` in `keys` `[B, K, D]`; gives `[B, Q, D]`.

    Args:
      queries: one row per answer.
      keys: what is looked at, as key and as value.
      mask: `bool[B or 1, Q or 1, K]`, true where a query may look at a key.
      train: whether to drop attention weights.

    Raises:
      ValueError: if `heads` does not divide the width.
    """
    width = queries.shape[-1]
    if width % self.heads:
      raise ValueError(f'heads={self.heads} must divide the width {width}.')

    def split_heads(x):
      return x.reshape(*x.shape[:2], self.heads, -1)

    def project(size, name):
      return Dense(size, kernel_init=attention_uniform, name=name)

    query = split_heads(project(width, 'query')(queries))
    key_value = project(2 * width, 'key_value')(keys)
    key, value = map(split_heads, jnp.split(key_value, 2, axis=-1))

    scores = jnp.einsum('bqhd,bkhd->bhqk', query, key) / (width / self.heads) ** 0.5
    scores = jnp.where(mask[:, None], scores, jnp.finfo(scores.dtype).min)
    weights = nn.softmax(scores, axis=-1)
    weights = Dropout(self.dropout, self.axis_name)(weights, train=train)
    mixed = jnp.einsum('bhqk,bkhd->bqhd', weights, value)
    return Dense(width, name='out')(mixed.reshape(queries.shape))
