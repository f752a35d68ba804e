"""Networks that talk on the way (MMTM; Joze et al., CVPR 2020), and vote at the end."""

from collections.abc import Mapping

import jax.numpy as jnp
from flax import linen as nn

from jdyn.layers.multimodal_transfer import MultimodalTransfer
from jdyn.models.presence import Flag, all_of, presence
from jdyn.ops.pooling import max_pool
from jdyn.typing import Modalities, Outputs


class MMTM(nn.Module):
  """A `ResNet` per modality; behind some stages, all scale each other's channels.

  Every stream has a head of its own, which reads the mean of its last map; the logits
  are the mean of theirs. Trained with losses `supervised` and `per_expert`, it is the
  RGB-D baseline of QMF.

  Attributes:
    encoders: by modality, two or more, with the same number of stages.
    head: of every stream; each has its own weights.
    transfer_after: stages, counted from 1, behind which there is a transfer.
    ratio: as in `MultimodalTransfer`.
  """

  encoders: Mapping[str, nn.Module]
  head: nn.Module
  transfer_after: tuple[int, ...] = (2, 3, 4)
  ratio: int = 4

  def setup(self):
    """Builds the transfers and the heads.

    Raises:
      ValueError: there are fewer than two encoders, their stages differ in number, or
        a transfer stands behind a stage that is not there.
    """
    stages = {name: len(encoder.blocks) for name, encoder in self.encoders.items()}
    if len(stages) < 2 or len(set(stages.values())) > 1:
      raise ValueError(
        f'encoders with stages {stages}: give two or more, with equal numbers of them.'
      )
    if unknown := sorted(set(self.transfer_after) - set(range(1, self._stages + 1))):
      raise ValueError(
        f'transfer_after={self.transfer_after}: there is no stage {unknown}; the '
        f'encoders have stages 1 to {self._stages}.'
      )
    self.transfers = {
      str(stage): MultimodalTransfer(self.ratio) for stage in self.transfer_after
    }
    self.heads = {name: self.head.clone(parent=None, name=None) for name in stages}

  @property
  def _stages(self) -> int:
    """How many stages every encoder has."""
    return len(next(iter(self.encoders.values())).blocks)

  def available(self, inputs: Modalities) -> Flag:
    """Where all modalities are there."""
    return all_of(presence(inputs, name) for name in self.encoders)

  def __call__(self, inputs: Modalities, *, train: bool, hparams) -> Outputs:
    """Logits `[B, C]` of images `[B, H, W, channels]`; every stream's in `unimodal`."""
    del hparams  # Nothing here varies by step.
    streams = {name: self.encoders[name] for name in sorted(self.encoders)}
    maps = {
      name: max_pool(encoder.stem(inputs[name], train=train))
      for name, encoder in streams.items()
    }
    for stage in range(1, self._stages + 1):
      maps = {
        name: encoder.stage(stage, maps[name], train=train)
        for name, encoder in streams.items()
      }
      if stage in self.transfer_after:
        maps = self.transfers[str(stage)](maps)
    features = {name: jnp.mean(x, axis=(1, 2)) for name, x in maps.items()}
    logits = {name: self.heads[name](x, train=train) for name, x in features.items()}
    return Outputs(
      logits=sum(logits.values()) / len(logits),
      unimodal=logits,
      hidden=jnp.concatenate(list(features.values()), axis=-1),
    )
