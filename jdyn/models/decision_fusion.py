"""Decision-level fusion: whole models vote with their logits."""

from collections.abc import Mapping

import flax.linen as nn

from jdyn.models.presence import Flag, all_of, any_of
from jdyn.ops.presence import present_key
from jdyn.typing import Modalities, Outputs


class DecisionFusion(nn.Module):
  """Fuses the logits of expert models, each a model of its own.

  An expert that lacks a modality does not vote; if the whole batch lacks it, the
  expert is not computed.
  """

  experts: Mapping[str, nn.Module]
  fusion: nn.Module

  def available(self, inputs: Modalities) -> Flag:
    """Where there is an expert who can judge; all, if the fusion needs all."""
    enough = any_of if 'present' in self._context else all_of
    return enough(expert.available(inputs) for expert in self.experts.values())

  @property
  def _context(self) -> tuple[str, ...]:
    """What the fusion is called with beside the logits."""
    return getattr(self.fusion, 'context', ())

  def __call__(self, inputs: Modalities, *, train: bool, hparams) -> Outputs:
    """Logits `[B, C]`.

    Returns:
      Every expert's own logits in `unimodal`, as the fusion sees them; in `aux` what
      the fusion says, that of the experts as `expert/name`, and, of experts who do not
      judge every example, `present/expert`.

    Raises:
      ValueError: the inputs lack a modality of every expert.
    """
    flags = {name: self.experts[name].available(inputs) for name in self.experts}
    voting = sorted(name for name, flag in flags.items() if flag is not False)
    if not voting:
      raise ValueError(
        f'None of the experts {sorted(self.experts)} can judge inputs with nothing but '
        f'{sorted(inputs)}.'
      )
    outputs = {
      name: self.experts[name](inputs, train=train, hparams=hparams) for name in voting
    }
    present = {name: flags[name] for name in voting if flags[name] is not True}
    context = {
      'present': present,
      'hidden': {name: outputs[name].hidden for name in voting},
    }
    logits = {name: outputs[name].logits for name in voting}
    context = {name: context[name] for name in self._context}
    fused = self.fusion(logits, train=train, **context)
    aux = {present_key(name): flag for name, flag in present.items()} | fused.aux
    for name in voting:
      aux |= {f'{name}/{key}': value for key, value in outputs[name].aux.items()}
    return Outputs(
      fused.value,
      unimodal=fused.unimodal or logits,
      weights=fused.weights,
      aux=aux,
    )
