"""A product of unimodal experts on AV-MNIST.

The intra-modality row of I2M2 (Madaan et al., arXiv 2405.17613), trained as a product.
The released code tests the mean of the experts' probabilities instead:
--config.model.fusion.evaluate=mixture.
Command: python -m jdyn.train --config configs/avmnist_intra.py --config.data.root=DIR
Data: `python -m jdyn.prepare avmnist` builds it; not comparable with other AV-MNISTs.
Score: docs/confidence.md.
"""

from configs import avmnist_image, avmnist_latefusion


def get_config():
  """One expert per modality, trained together."""
  return avmnist_image.run(avmnist_latefusion.stage('product_of_experts'))
