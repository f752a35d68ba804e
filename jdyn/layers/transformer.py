"""The transformer over a sequence that MultiBench and DynMM use.

It has no positional encoding and reads out one step, so permuting all other
steps changes nothing. The originals look at padding as well; here attention
sees only the steps before `length`, and whoever sets `length` decides what
counts as a step. PyTorch's `TransformerEncoder` starts all blocks from copies
of one block's weights; here each block draws its own.
"""

from typing import Any, Literal

import jax
from flax import linen as nn

from jdyn.layers.dense import Dense
from jdyn.layers.sequence import as_sequence, last_step, step_mask
from jdyn.layers.transformer_block import TransformerBlock


class Transformer(nn.Module):
  """A bias-free embedding of every step, then post-norm transformer blocks.

  With `readout='last'` the last block is computed for the read step only,
  which gives the same result: the other steps are still looked at as keys.

  Attributes:
    features: width of every step; a multiple of `heads`.
    blocks: number of blocks, at least 1.
    heads: number of attention heads.
    feedforward: width of the hidden layer in each block.
    dropout: rate inside the blocks.
    readout: `last` for the step `length - 1`, `steps` for all of them.
    axis_name: name of the mapped data axis, for dropout.
  """

  features: int
  blocks: int = 5
  heads: int = 5
  feedforward: int = 2048
  dropout: float = 0.1
  readout: Literal['last', 'steps'] = 'last'
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: Any, *, train: bool) -> jax.Array:
    """Maps a sequence to `[B, features]`, or to `[B, T, features]` for `steps`.

    Args:
      x: `{'steps': [B, T, F], 'length': [B]}`, or `[B, T, F]` of full length.
      train: whether dropout is active.
    """
    steps, length = as_sequence(x)
    mask = step_mask(length, steps.shape[1])[:, None, :]
    y = Dense(self.features, use_bias=False, name='embed')(steps)
    for i in range(self.blocks):
      read_only = self.readout == 'last' and i == self.blocks - 1
      block = TransformerBlock(
        self.heads, self.feedforward, self.dropout, self.axis_name, name=f'block_{i}'
      )
      y = block(last_step(y, length) if read_only else y, y, mask, train=train)
    return y[:, 0] if self.readout == 'last' else y
