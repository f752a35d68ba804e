"""Every feature a token (MultiBench's `LateFusionTransformer`)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.layers.transformer import Transformer
from jdyn.typing import Fused


class ScalarTokens(nn.Module):
  """A transformer over the concatenated features, each scalar being one step.

  The last feature of the last modality in sorted order is where the result is
  read; as there are no positions, all other features are exchangeable.
  (MultiBench's `EarlyFusionTransformer` is the encoder `transformer` on joined
  sequences, with a linear head.)

  Attributes:
    features: width of the output; a multiple of `heads`.
    blocks: number of transformer blocks.
    heads: number of attention heads.
    feedforward: width of the hidden layer in each block.
    dropout: rate inside the blocks.
    axis_name: name of the mapped data axis, for dropout.
  """

  features: int = 9
  blocks: int = 3
  heads: int = 3
  feedforward: int = 2048
  dropout: float = 0.1
  axis_name: str | None = None

  @nn.compact
  def __call__(self, inputs: Mapping[str, jax.Array], *, train: bool) -> Fused:
    """Maps arrays `[B, ...]`, flattened to vectors, to `[B, features]`."""
    parts = [inputs[name] for name in sorted(inputs)]
    flat = [part.reshape(part.shape[0], -1) for part in parts]
    transformer = Transformer(
      self.features,
      self.blocks,
      self.heads,
      self.feedforward,
      self.dropout,
      axis_name=self.axis_name,
      name='transformer',
    )
    return Fused(transformer(jnp.concatenate(flat, axis=-1)[:, :, None], train=train))
