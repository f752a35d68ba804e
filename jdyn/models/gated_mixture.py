"""A gate chooses, per example, among whole expert models (DynMM, modality level).

Source: Xue and Marculescu, "Dynamic Multimodal Fusion", CVPR-W 2023. Here every
path is computed and weighted, as straight-through training needs.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp

from jdyn.layers.join import join
from jdyn.typing import Gated, Modalities, Outputs


class GatedMixture(nn.Module):
  """Mixes the logits of `K` experts with the weights of a gate.

  Attributes:
    experts: models by name; a model may be a gated mixture itself.
    paths: the experts' names in the order of the gate's outputs.
    gate: features to weights `[B, K]`.
    gate_inputs: the modalities that the gate reads, any subset.
  """

  experts: Mapping[str, nn.Module]
  paths: tuple[str, ...]
  gate: nn.Module
  gate_inputs: tuple[str, ...]

  def route(self, inputs: Modalities, *, train: bool, hparams) -> Gated:
    """Runs the gate alone."""
    return self.gate(join(inputs, self.gate_inputs), train=train, hparams=hparams)

  def expert(self, path: str, inputs: Modalities, *, train: bool, hparams) -> Outputs:
    """Runs one expert alone."""
    return self.experts[path](inputs, train=train, hparams=hparams)

  def __call__(self, inputs: Modalities, *, train: bool, hparams) -> Outputs:
    """Logits `[B, ..., C]`, each expert's in `unimodal`, the gate's in `weights`."""
    gated = self.route(inputs, train=train, hparams=hparams)
    logits = {
      path: self.expert(path, inputs, train=train, hparams=hparams).logits
      for path in self.paths
    }
    stacked = jnp.stack([logits[path] for path in self.paths], axis=1)  # [B, K, ..., C]
    return Outputs(
      logits=jnp.einsum('bk,bk...->b...', gated.weights, stacked),
      unimodal=logits,
      weights={path: gated.weights[:, k] for k, path in enumerate(self.paths)},
      aux={'gate_logits': gated.logits},
    )
