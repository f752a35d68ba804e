"""Early fusion: the modalities are joined at the input."""

import flax.linen as nn

from jdyn.layers.join import join
from jdyn.models.presence import Flag, all_of, presence
from jdyn.typing import Modalities, Outputs


class EarlyFusion(nn.Module):
  """One encoder and head on the concatenated raw modalities.

  Arrays are concatenated feature-wise, sequences step by step.
  """

  modalities: tuple[str, ...]
  encoder: nn.Module
  head: nn.Module

  def available(self, inputs: Modalities) -> Flag:
    """Where all modalities are there."""
    return all_of(presence(inputs, name) for name in self.modalities)

  def __call__(self, inputs: Modalities, *, train: bool, hparams) -> Outputs:
    """Logits `[B, C]` of one batch."""
    del hparams  # Nothing here varies by step.
    features = self.encoder(join(inputs, self.modalities), train=train)
    return Outputs(logits=self.head(features, train=train), hidden=features)
