"""An expert whose outputs were computed before: frozen experts, cached."""

import flax.linen as nn

from jdyn.models.presence import Flag, all_of
from jdyn.ops.presence import present_key
from jdyn.typing import Modalities, Outputs


def logits_key(path: str) -> str:
  """The name under which a frozen expert's logits join the inputs."""
  return f'logits/{path}'


def hidden_key(path: str) -> str:
  """The name under which a frozen expert's hidden state joins the inputs."""
  return f'hidden/{path}'


class Precomputed(nn.Module):
  """Looks its outputs up in the inputs; it has no parameters.

  Attributes:
    expert: its name.
    needs: the modalities without which it cannot judge.
  """

  expert: str
  needs: tuple[str, ...] = ()

  def available(self, inputs: Modalities) -> Flag:
    """Where its modalities are there; they are not inputs, but their masks may be."""
    return all_of(inputs.get(present_key(name), True) for name in self.needs)

  def __call__(self, inputs: Modalities, *, train: bool, hparams) -> Outputs:
    """The cached logits `[B, C]` of one batch, and the hidden state if it is there."""
    del train, hparams  # The expert is frozen, in evaluation mode.
    hidden = inputs.get(hidden_key(self.expert))
    return Outputs(logits=inputs[logits_key(self.expert)], hidden=hidden)
