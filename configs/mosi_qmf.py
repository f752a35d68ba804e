"""QMF on CMU-MOSI utterance features: every modality votes with its energy.

Paper: Zhang et al., Provable Dynamic Fusion for Low-Quality Multimodal Data, ICML 2023.
The margin of the ranking loss is the paper's; --config.loss.rank_margin=repo is what
the released code computes.
Command: python -m jdyn.train --config configs/mosi_qmf.py --config.data.root=DIR
Score: docs/confidence.md.
"""

from configs import base, mosi_latefusion


def stage():
  """The fused prediction, every modality's own, and the order of their confidences."""
  config = mosi_latefusion.stage('energy_weighted')
  config.loss.per_expert = 1.0
  config.loss.rank = 1.0
  return config


def get_config():
  """QMF."""
  return base.run(base.data('mosi'), stage())
