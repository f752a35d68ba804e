"""Decision-level fusion: whole models vote with their logits."""

from collections.abc import Mapping

import flax.linen as nn

from jdyn.typing import Modalities, Outputs


class DecisionFusion(nn.Module):
  """Fuses the logits of expert models, each a model of its own."""

  experts: Mapping[str, nn.Module]
  fusion: nn.Module

  def __call__(self, inputs: Modalities, *, train: bool, hparams) -> Outputs:
    """Logits `[B, C]`; `unimodal` holds every expert's own."""
    logits = {
      name: self.experts[name](inputs, train=train, hparams=hparams).logits
      for name in sorted(self.experts)
    }
    fused = self.fusion(logits, train=train)
    return Outputs(fused.value, unimodal=logits, weights=fused.weights, aux=fused.aux)
