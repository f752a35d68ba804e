"""Handwritten digits, thumbnail and pixels fused at an equilibrium.

Command: python -m jdyn.train --config configs/digits_deq.py
Score: not run over seeds. The dear expert of `digits_dyn` with another fusion.
"""

from configs import base, digits_dyn


def stage():
  """Both modalities."""
  config = digits_dyn.both()
  for encoder in config.model.encoders.values():
    encoder.features = 64
  config.model.fusion = base.fusion('equilibrium', max_steps=12, jacobian_probes=1)
  config.loss.jacobian = 0.1
  return config


def get_config():
  """The equilibrium expert alone."""
  return base.run(base.data('digits'), stage())
