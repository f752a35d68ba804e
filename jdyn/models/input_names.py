"""Which modalities a model reads."""

import flax.linen as nn


def input_names(model: nn.Module) -> tuple[str, ...]:
  """Names of the modalities that a model reads, sorted."""
  names = set()
  for field in ('modalities', 'gate_inputs'):
    names.update(getattr(model, field, ()))
  if hasattr(model, 'modality'):
    names.add(model.modality)
  names.update(getattr(model, 'encoders', ()))
  for expert in getattr(model, 'experts', {}).values():
    names.update(input_names(expert))
  return tuple(sorted(names))
