"""Feature-level ("late" in MultiBench) fusion: encode, fuse features, classify."""

from collections.abc import Mapping

import flax.linen as nn

from jdyn.typing import Modalities, Outputs


class FeatureFusion(nn.Module):
  """One encoder per modality, a fusion of their features, and a head."""

  encoders: Mapping[str, nn.Module]
  fusion: nn.Module
  head: nn.Module

  def __call__(self, inputs: Modalities, *, train: bool, hparams) -> Outputs:
    """Logits `[B, C]` of one batch."""
    del hparams  # Nothing here varies by step.
    features = {
      name: self.encoders[name](inputs[name], train=train)
      for name in sorted(self.encoders)
    }
    fused = self.fusion(features, train=train)
    return Outputs(
      logits=self.head(fused.value, train=train),
      unimodal=fused.unimodal,
      weights=fused.weights,
      aux=fused.aux,
      hidden=fused.value,
    )
