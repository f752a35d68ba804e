"""A product of unimodal experts on CMU-MOSI utterance features.

The intra-modality row of I2M2 (Madaan et al., arXiv 2405.17613), trained as a product.
The released code tests the mean of the experts' probabilities instead:
--config.model.fusion.evaluate=mixture.
Command: python -m jdyn.train --config configs/mosi_intra.py --config.data.root=DIR
Score: docs/confidence.md.
"""

from configs import base, mosi_latefusion


def get_config():
  """One expert per modality, trained together."""
  return base.run(base.data('mosi'), mosi_latefusion.stage('product_of_experts'))
