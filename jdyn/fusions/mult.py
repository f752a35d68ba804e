"""The Multimodal Transformer (MulT; Tsai et al., ACL 2019), as in MultiBench.

Every modality looks at every modality, itself included, through a stack of
cross-modal layers; what it finds is concatenated, goes through a stack of
self-attention layers, and is read at the last step.

MultiBench gives a step whose first projected feature is exactly zero no
position, to catch padding; here padding is what lies at or after `length`, no
attention sees it, and all other steps have a position. MultiBench drops the
embedded keys and values separately, here they are one array.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.layers.cross_modal_block import CrossModalBlock
from jdyn.layers.dense import Dense
from jdyn.layers.dropout import Dropout
from jdyn.layers.positions import sinusoidal_positions
from jdyn.layers.sequence import as_sequence, last_step, step_mask
from jdyn.typing import Fused, Modalities


class MulT(nn.Module):
  """Directional cross-modal attention between all pairs of sequences.

  The inputs are sequences, `{'steps', 'length'}` or `[B, T, F]`: behind the
  encoder `identity(flatten=False)`.

  Attributes:
    features: width of the output.
    width: width of a modality inside; a multiple of `heads`.
    heads: number of attention heads.
    layers: number of cross-modal layers.
    memory_layers: number of self-attention layers; at least `layers` are used.
    causal: whether a step looks only at steps up to its own time.
    attention_dropout: rate on self-attention weights.
    cross_dropout: rate on cross-modal attention weights.
    hidden_dropout: rate inside the feed-forward nets.
    residual_dropout: rate on what a layer adds.
    embedding_dropout: rate on the embedded steps.
    output_dropout: rate in the residual block before the output.
    readout: `last` for the step `length - 1` of every modality, `steps` for all.
    axis_name: name of the mapped data axis, for dropout.
  """

  features: int
  width: int = 9
  heads: int = 3
  layers: int = 3
  memory_layers: int = 3
  causal: bool = True
  attention_dropout: float = 0.1
  cross_dropout: float = 0.0
  hidden_dropout: float = 0.1
  residual_dropout: float = 0.1
  embedding_dropout: float = 0.25
  output_dropout: float = 0.0
  readout: Literal['last', 'steps'] = 'last'
  axis_name: str | None = None

  @nn.compact
  def __call__(self, inputs: Modalities, *, train: bool) -> Fused:
    """Maps M sequences to `[B, features]`, or `[B, T, features]` for `steps`.

    With `steps`, the sequences must have the same number of steps.
    """
    names = sorted(inputs)
    sequences = {name: as_sequence(inputs[name]) for name in names}
    embedded = {
      name: Dense(self.width, use_bias=False, name=f'embed_{name}')(steps)
      for name, (steps, _) in sequences.items()
    }
    read = []
    for name in names:
      found = [
        self._stack(f'{name}_from_{other}', self.layers, self.cross_dropout)(
          embedded[name], embedded[other], sequences[other][1], train=train
        )
        for other in names
      ]
      joined, length = jnp.concatenate(found, axis=-1), sequences[name][1]
      memory = self._stack(
        f'{name}_memory',
        max(self.layers, self.memory_layers),
        self.attention_dropout,
      )(joined, None, length, train=train)
      read.append(last_step(memory, length)[:, 0] if self.readout == 'last' else memory)

    x = jnp.concatenate(read, axis=-1)
    y = nn.relu(Dense(x.shape[-1], name='dense_0')(x))
    y = Dropout(self.output_dropout, self.axis_name)(y, train=train)
    y = x + Dense(x.shape[-1], name='dense_1')(y)
    return Fused(Dense(self.features, name='out')(y))

  def _stack(self, name: str, layers: int, attention_dropout: float) -> '_Stack':
    return _Stack(
      self.heads,
      layers,
      self.causal,
      attention_dropout,
      self.hidden_dropout,
      self.residual_dropout,
      self.embedding_dropout,
      self.axis_name,
      name=name,
    )


class _Stack(nn.Module):
  """Cross-modal layers, or self-attention layers, and a final LayerNorm."""

  heads: int
  layers: int
  causal: bool
  attention_dropout: float
  hidden_dropout: float
  residual_dropout: float
  embedding_dropout: float
  axis_name: str | None

  @nn.compact
  def __call__(
    self, x: jax.Array, other: jax.Array | None, length: jax.Array, *, train: bool
  ) -> jax.Array:
    """Lets `x` `[B, T, D]` look at `other`, or at itself if that is None.

    `length` `[B]` is that of the sequence looked at.
    """

    def embed(steps):
      positions = sinusoidal_positions(*steps.shape[1:])[None]
      embedded = steps * steps.shape[-1] ** 0.5 + positions.astype(steps.dtype)
      return Dropout(self.embedding_dropout, self.axis_name)(embedded, train=train)

    y = embed(x)
    keys = None if other is None else embed(other)
    num_queries, num_keys = y.shape[1], (y if keys is None else keys).shape[1]
    mask = step_mask(length, num_keys)[:, None, :]
    if self.causal:
      ahead = abs(num_keys - num_queries)
      mask &= jnp.tri(num_queries, num_keys, ahead, dtype=bool)[None]
    for i in range(self.layers):
      block = CrossModalBlock(
        self.heads,
        self.attention_dropout,
        self.hidden_dropout,
        self.residual_dropout,
        self.axis_name,
        name=f'block_{i}',
      )
      y = block(y, y if keys is None else keys, mask, train=train)
    return nn.LayerNorm(epsilon=1e-5, name='norm')(y)
