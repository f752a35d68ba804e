"""I2M2 on CMU-MOSI utterance features: unimodal experts times a joint one.

Paper: Madaan et al., arXiv 2405.17613. The experts start fresh and are trained
together, as it does on MIMIC.
Command: python -m jdyn.train --config configs/mosi_i2m2.py --config.data.root=DIR
Score: docs/confidence.md.
"""

from configs import base, mosi_concat, mosi_latefusion


def get_config():
  """One expert per modality, and one of all."""
  joint = mosi_concat.stage().model
  return base.run(
    base.data('mosi'), mosi_latefusion.stage('product_of_experts', joint=joint)
  )
