"""The non-local gate (Wang et al., CVPR 2020, appendix F.4; MultiBench's `NLgate`)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.layers.dense import Dense
from jdyn.typing import Fused


class NonLocalGate(nn.Module):
  """One modality, plus what it finds in the others by attention.

  The query modality is projected to `positions` tokens of `channels` features,
  every other to `slots` tokens. MultiBench has one other modality and lets the
  projections be left out; here there is always one.

  Attributes:
    positions: tokens of the query modality.
    channels: features of a token.
    slots: tokens of each other modality.
    query: name of the query modality; empty for the first in sorted order.
  """

  positions: int
  channels: int
  slots: int
  query: str = ''

  @nn.compact
  def __call__(self, inputs: Mapping[str, jax.Array], *, train: bool) -> Fused:
    """Maps arrays `[B, ...]`, flattened, to `[B, positions * channels]`.

    Raises:
      ValueError: if `query` is not one of the inputs.
    """
    del train
    query_name = self.query or min(inputs)
    if query_name not in inputs:
      raise ValueError(f'query={self.query!r} is not one of {sorted(inputs)}.')
    others = [name for name in sorted(inputs) if name != query_name]

    def tokens(count, kind, name):
      x = inputs[name].reshape(inputs[name].shape[0], -1)
      y = Dense(count * self.channels, name=f'{kind}_{name}')(x)
      return y.reshape(x.shape[0], count, self.channels)

    query = tokens(self.positions, 'query', query_name)
    keys = [tokens(self.slots, 'key', name) for name in others]
    values = [tokens(self.slots, 'value', name) for name in others]
    scores = jnp.einsum('bqc,bkc->bqk', query, jnp.concatenate(keys, axis=1))
    found = nn.softmax(scores, axis=-1) @ jnp.concatenate(values, axis=1)
    return Fused((query + found).reshape(query.shape[0], -1))
