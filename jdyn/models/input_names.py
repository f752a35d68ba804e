"""Which modalities a model reads."""

import flax.linen as nn

from jdyn.models.gated_mixture import GatedMixture, expert_input


def input_names(model: nn.Module) -> tuple[str, ...]:
  """Names of the modalities that a model reads, sorted."""
  names = set(getattr(model, 'modalities', ()))
  if hasattr(model, 'modality'):
    names.add(model.modality)
  names.update(getattr(model, 'encoders', ()))
  for expert in getattr(model, 'experts', {}).values():
    names.update(input_names(expert))
  if isinstance(model, GatedMixture):
    names.update(_gate_modalities(model))
  return tuple(sorted(names))


def route_names(model: GatedMixture) -> tuple[str, ...]:
  """Names of the modalities that are read before a path is chosen, sorted."""
  names = set(_gate_modalities(model))
  for path in model.gate_experts:
    names.update(input_names(model.experts[path]))
  return tuple(sorted(names))


def _gate_modalities(model: GatedMixture) -> list[str]:
  return [name for name in model.gate_inputs if expert_input(name) is None]
