"""A product of unimodal experts on ROSMAP multi-omics.

The intra-modality row of I2M2 (Madaan et al., arXiv 2405.17613), trained as a product.
The released code tests the mean of the experts' probabilities instead:
--config.model.fusion.evaluate=mixture.
Command: python -m jdyn.train --config configs/rosmap_intra.py --config.data.root=DIR
Score: docs/confidence.md.
"""

from configs import base, rosmap_latefusion


def get_config():
  """One expert per modality, trained together."""
  return base.run(base.data('rosmap'), rosmap_latefusion.stage('product_of_experts'))
