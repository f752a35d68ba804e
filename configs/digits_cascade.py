"""A cascade on the handwritten digits: the gate reads what the cheap expert found.

Command: python -m jdyn.train --config configs/digits_cascade.py
The thumbnail's expert always runs. Where it is sure, its answer stands and the full
pixels are not read; else the dear expert runs as well.
Score: docs/budgets.md.
"""

from configs import base, digits_dyn


def get_config():
  """The experts of digits_dyn, and a gate on the cheap one's output."""
  config = digits_dyn.get_config()
  config.model = base.gated_mixture(
    paths=('coarse', 'both'),
    gate=base.learned_gate(base.encoder('identity'), base.encoder('mlp', hidden=(16,))),
    gate_inputs=('hidden/coarse', 'confidence/coarse'),
  )
  return config
