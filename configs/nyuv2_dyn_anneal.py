"""Fusion-level DynMM on NYUv2, its best: soft gates that become hard with time.

Paper: Xue and Marculescu, Dynamic Multimodal Fusion, CVPR-W 2023 (DynMM-b). It goes on
from the straight-through gate of configs/nyuv2_dyn_hard.py, with soft weights whose
temperature falls from 1 to 0.001 (0.0001 in the paper); evaluated with hard ones.
ImageNet weights: --config.warm_up.straight_through.warm_up.random_exits.pretrained.rgb.
Command: python -m jdyn.train --config configs/nyuv2_dyn_anneal.py
  --config.data.root=DIR
Published: mIoU 51.0 with 19.5 of the 24.7 GMACs of the depth encoder (Table 3).
Score: not run.
"""

from configs import base, nyuv2_dyn_hard, nyuv2_esanet


def get_config():
  """DynMM-b."""
  config = nyuv2_dyn_hard.gated()
  config.gate.mode = 'soft'
  config.gate.temperature = base.schedule(1.0, 1e-3, name='exponential')
  config.warm_up.straight_through = nyuv2_dyn_hard.stage()
  return nyuv2_esanet.run(config)
