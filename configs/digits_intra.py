"""A product of unimodal experts on scikit-learn's handwritten digits.

The intra-modality row of I2M2 (Madaan et al., arXiv 2405.17613), trained as a product.
The released code tests the mean of the experts' probabilities instead:
--config.model.fusion.evaluate=mixture.
Command: python -m jdyn.train --config configs/digits_intra.py
Score: not run over seeds.
"""

from configs import base, digits_latefusion


def get_config():
  """One expert per modality, trained together."""
  return base.run(base.data('digits'), digits_latefusion.stage('product_of_experts'))
