"""Dynamic multimodal fusion in JAX: per example, the computation that it needs."""

import importlib

_PUBLIC = {
  'DataError': 'jdyn.data.dataset',
  'Fused': 'jdyn.typing',
  'Gated': 'jdyn.typing',
  'Mean': 'jdyn.typing',
  'Outputs': 'jdyn.typing',
  'TrainedRun': 'jdyn.inference',
  'count_macs': 'jdyn.cost',
  'load': 'jdyn.inference',
  'straight_through': 'jdyn.ops.straight_through',
  'train': 'jdyn.training.loop',
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
  """Imports a public name when it is first used: `import jdyn` alone stays quick."""
  if name in _PUBLIC:
    return getattr(importlib.import_module(_PUBLIC[name]), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
