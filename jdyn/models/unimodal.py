"""One modality: encoder and head."""

import flax.linen as nn

from jdyn.models.presence import Flag, presence
from jdyn.typing import Modalities, Outputs


class Unimodal(nn.Module):
  """A network that reads one modality and ignores the rest."""

  modality: str
  encoder: nn.Module
  head: nn.Module

  def available(self, inputs: Modalities) -> Flag:
    """Where its modality is there."""
    return presence(inputs, self.modality)

  def __call__(self, inputs: Modalities, *, train: bool, hparams) -> Outputs:
    """Logits `[B, C]` of one batch."""
    del hparams  # Nothing here varies by step.
    features = self.encoder(inputs[self.modality], train=train)
    return Outputs(logits=self.head(features, train=train), hidden=features)
