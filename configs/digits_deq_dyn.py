"""Gated paths on digits, of which the dear one is an equilibrium model.

Command: python -m jdyn.train --config configs/digits_deq_dyn.py
The budget charges the dear path its cap of solver steps; what it executed is scored.
Score: not run over seeds.
"""

from configs import digits_deq, digits_dyn


def get_config():
  """`digits_dyn` with another dear expert."""
  config = digits_dyn.get_config()
  config.experts.both = digits_deq.stage()
  return config
