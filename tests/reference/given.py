"""Fusions and losses on given logits, as the original code's numbers are stored."""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdyn.encoders.identity import Identity
from jdyn.losses.term import LossTerm
from jdyn.models.decision_fusion import DecisionFusion
from jdyn.models.unimodal import Unimodal
from jdyn.typing import Outputs


def fuse(
  logits: Mapping[str, jax.Array], fusion: nn.Module, *, train: bool = True
) -> Outputs:
  """What a decision fusion makes of experts that say `logits`."""
  experts = {name: Unimodal(name, Identity(), Identity()) for name in logits}
  model = DecisionFusion(experts, fusion)
  return model.apply({}, logits, train=train, hparams={})


def batch_of(label: jax.Array) -> dict[str, jax.Array]:
  """The rest of a batch without padding."""
  return {'label': label, 'mask': jnp.ones(len(label)), 'index': jnp.arange(len(label))}


def mean_loss(
  terms: Sequence[LossTerm], outputs: Outputs, label: jax.Array, **hparams
) -> jax.Array:
  """The sum of terms without memory."""
  batch = batch_of(label)
  return sum(t.apply(outputs, batch, hparams, (), None)[0].compute() for t in terms)
