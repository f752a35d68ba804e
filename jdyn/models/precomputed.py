"""An expert whose logits were computed before: frozen experts, cached."""

import flax.linen as nn

from jdyn.typing import Modalities, Outputs


def logits_key(path: str) -> str:
  """The name under which a frozen expert's logits join the inputs."""
  return f'logits/{path}'


class Precomputed(nn.Module):
  """Looks its logits up in the inputs; it has no parameters."""

  expert: str

  def __call__(self, inputs: Modalities, *, train: bool, hparams) -> Outputs:
    """The cached logits `[B, C]` of one batch."""
    del train, hparams  # The expert is frozen, in evaluation mode.
    return Outputs(logits=inputs[logits_key(self.expert)])
