"""A gate that is a small network on some of the modalities (DynMM)."""

import flax.linen as nn
import jax

from jdyn.ops.random import row_keys
from jdyn.ops.straight_through import straight_through
from jdyn.typing import Gated


class LearnedGate(nn.Module):
  """Encoder and head, then weights over `K` paths.

  MM-IMDB's gate is `identity` and an MLP on concatenated features; CMU-MOSEI's
  is a narrow Transformer on the modalities joined step by step, and a Dense.

  Attributes:
    encoder: features of the joined gate inputs.
    head: features to `[B, K]` logits.
    noise: add Gumbel noise to the logits in training.
    axis_name: the data axis under `pmap` or `shard_map`.
  """

  encoder: nn.Module
  head: nn.Module
  noise: bool = False
  axis_name: str | None = None

  @nn.compact
  def __call__(self, features, *, train: bool, hparams) -> Gated:
    """Gates one batch.

    Args:
      features: an array `[B, ...]` or a sequence (`jdyn.typing.Modalities`).
      train: noise and dropout are on.
      hparams: `gate_temperature` and `gate_hard`, both traced.
    """
    hidden = self.encoder(features, train=train)
    logits = self.head(hidden, train=train)
    noise = None
    if self.noise and train:
      keys = row_keys(self.make_rng('gate'), logits.shape[0], self.axis_name)
      noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)
    weights = straight_through(
      logits,
      temperature=hparams['gate_temperature'],
      hard=hparams['gate_hard'],
      noise=noise,
    )
    return Gated(weights=weights, logits=logits)
