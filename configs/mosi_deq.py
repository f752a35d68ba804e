"""CMU-MOSI utterance features, text, audio and video fused at an equilibrium.

The method of Ni et al., "Deep equilibrium multimodal fusion", 2023; the paper's own
CMU-MOSI model works on BERT's attention.
Command: python -m jdyn.train --config configs/mosi_deq.py --config.data.root=DIR
Score: not run. `mosi_concat` with another fusion.
"""

from configs import base, mosi_concat


def get_config():
  """The equilibrium expert alone."""
  config = mosi_concat.stage()
  config.model.fusion = base.fusion('equilibrium', jacobian_probes=1)
  config.loss.jacobian = 0.1
  return base.run(base.data('mosi'), config)
