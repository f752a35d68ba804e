"""Feature-level ("late" in MultiBench) fusion: encode, fuse features, classify."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdyn.models.presence import Flag, all_of, any_of, presence
from jdyn.typing import Modalities, Outputs


class FeatureFusion(nn.Module):
  """One encoder per modality, a fusion of their features, and a head.

  Attributes:
    encoders: by modality.
    fusion: of the features.
    head: reads what is fused.
    absent_embedding: where a modality is absent, a learned embedding stands for its
      features; it learns from examples that lack it. Without, a model cannot judge
      such examples.
  """

  encoders: Mapping[str, nn.Module]
  fusion: nn.Module
  head: nn.Module
  absent_embedding: bool = False

  def available(self, inputs: Modalities) -> Flag:
    """Where all modalities are there; with embeddings, any one."""
    found = [presence(inputs, name) for name in self.encoders]
    return any_of(found) if self.absent_embedding else all_of(found)

  @nn.compact
  def __call__(self, inputs: Modalities, *, train: bool, hparams) -> Outputs:
    """Logits `[B, C]` of one batch.

    Raises:
      ValueError: with embeddings, the inputs have none of the modalities.
    """
    del hparams  # Nothing here varies by step.
    features = {
      name: self.encoders[name](inputs[name], train=train)
      for name in sorted(self.encoders)
      if name in inputs or not self.absent_embedding
    }
    if self.absent_embedding:
      features = self._fill_in(features, inputs)
    fused = self.fusion(features, train=train)
    return Outputs(
      logits=self.head(fused.value, train=train),
      unimodal=fused.unimodal,
      weights=fused.weights,
      aux=fused.aux,
      hidden=fused.value,
    )

  def _fill_in(self, features, inputs: Modalities) -> dict[str, jax.Array]:
    """Features of all modalities, those of the absent replaced."""
    if not features:
      raise ValueError(
        f'None of the modalities {sorted(self.encoders)} is among the inputs '
        f'{sorted(inputs)}.'
      )
    rows = next(iter(features.values())).shape[0]
    filled = {}
    for name in sorted(self.encoders):
      parameter = f'absent_{name}'
      if name not in features:
        embedding = self.get_variable('params', parameter)
        filled[name] = jnp.broadcast_to(embedding, (rows, *embedding.shape))
        continue
      x = features[name]
      embedding = self.param(parameter, nn.initializers.zeros, x.shape[1:])
      present = presence(inputs, name)
      if present is not True:
        mask = present.reshape(-1, *[1] * (x.ndim - 1))
        x = jnp.where(mask, x, embedding[None].astype(x.dtype))
      filled[name] = x
    return filled
