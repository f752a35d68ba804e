"""A gate chooses, per example, among whole expert models (DynMM, modality level).

Source: Xue and Marculescu, "Dynamic Multimodal Fusion", CVPR-W 2023. Called as a
whole, every path is computed and weighted, as straight-through training needs;
`route` and `expert` are its parts, for running the chosen path alone.
"""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdyn.layers.join import join
from jdyn.models.presence import Flag, all_of, presence
from jdyn.typing import Gated, Modalities, Outputs

OF_EXPERT = ('confidence', 'hidden', 'logits')
"""What a gate can read of an expert."""


def expert_input(name: str) -> tuple[str, str] | None:
  """What of which expert a gate input such as `hidden/text` names.

  None if it is the name of a modality.
  """
  kind, _, path = name.partition('/')
  return (kind, path) if path and kind in OF_EXPERT else None


class GatedMixture(nn.Module):
  """Mixes the logits of `K` experts with the weights of a gate.

  A gate that reads what a cheap expert made of its input makes a cascade: that
  expert always runs, and where it is chosen nothing else does, so the costly
  modalities need not even be read.

  Attributes:
    experts: models by name; a model may be a gated mixture itself.
    paths: the experts' names in the order of the gate's outputs.
    gate: features to weights `[B, K]`.
    gate_inputs: what the gate reads: modalities, and `hidden/x`, `logits/x` or
      `confidence/x` of an expert x.
    confidence: logits `[B, ..., C]` to how sure they are `[B]`; a task's.
  """

  experts: Mapping[str, nn.Module]
  paths: tuple[str, ...]
  gate: nn.Module
  gate_inputs: tuple[str, ...]
  confidence: Callable[[jax.Array], jax.Array] | None = None

  def available(self, inputs: Modalities) -> Flag:
    """Where every path can be taken, and the gate can see."""
    read = [name for name in self.gate_inputs if expert_input(name) is None]
    seen = [presence(inputs, name) for name in read]
    return all_of([*seen, *(e.available(inputs) for e in self.experts.values())])

  @property
  def gate_experts(self) -> tuple[str, ...]:
    """The experts that the gate reads, and that therefore run for every example."""
    found = [expert_input(name) for name in self.gate_inputs]
    return tuple(sorted({of_expert[1] for of_expert in found if of_expert}))

  def route(
    self, inputs: Modalities, *, train: bool, hparams
  ) -> tuple[Gated, dict[str, Outputs]]:
    """Runs the gate, and before it the experts that it reads, whose outputs it adds."""
    known = {
      path: self.expert(path, inputs, train=train, hparams=hparams)
      for path in self.gate_experts
    }
    features = {}
    for name in self.gate_inputs:
      of_expert = expert_input(name)
      features[name] = (
        self._read(known[of_expert[1]], of_expert[0]) if of_expert else inputs[name]
      )
    joined = join(features, self.gate_inputs)
    return self.gate(joined, train=train, hparams=hparams), known

  def _read(self, outputs: Outputs, kind: str) -> jax.Array:
    if kind == 'confidence':
      return self.confidence(outputs.logits)[:, None]
    return outputs.hidden if kind == 'hidden' else outputs.logits

  def expert(self, path: str, inputs: Modalities, *, train: bool, hparams) -> Outputs:
    """Runs one expert alone."""
    return self.experts[path](inputs, train=train, hparams=hparams)

  def follow(self, path: str, inputs: Modalities, *, train: bool, hparams) -> Outputs:
    """Runs the gate and then one path, whatever the gate says: what it costs."""
    _, known = self.route(inputs, train=train, hparams=hparams)
    return self._finish(path, inputs, known, train=train, hparams=hparams)

  def _finish(self, path, inputs, known, *, train, hparams) -> Outputs:
    if path in known:
      return known[path]
    return self.expert(path, inputs, train=train, hparams=hparams)

  def __call__(self, inputs: Modalities, *, train: bool, hparams) -> Outputs:
    """Logits `[B, ..., C]`, each expert's in `unimodal`, the gate's in `weights`.

    `aux` has the gate's logits, and that of the experts as `path/name`.
    """
    gated, known = self.route(inputs, train=train, hparams=hparams)
    outputs = {
      path: self._finish(path, inputs, known, train=train, hparams=hparams)
      for path in self.paths
    }
    logits = {path: outputs[path].logits for path in self.paths}
    stacked = jnp.stack([logits[path] for path in self.paths], axis=1)  # [B, K, ..., C]
    return Outputs(
      logits=jnp.einsum('bk,bk...->b...', gated.weights, stacked),
      unimodal=logits,
      weights={path: gated.weights[:, k] for k, path in enumerate(self.paths)},
      aux={'gate_logits': gated.logits}
      | {
        f'{path}/{name}': x for path in outputs for name, x in outputs[path].aux.items()
      },
    )
