"""I2M2 on scikit-learn's handwritten digits: unimodal experts times a joint one.

Paper: Madaan et al., arXiv 2405.17613. The experts start fresh and are trained
together, as it does on MIMIC.
Command: python -m jdyn.train --config configs/digits_i2m2.py
Score: not run over seeds.
"""

from configs import base, digits_dyn, digits_latefusion


def get_config():
  """One expert per modality, and one of all."""
  joint = digits_dyn.both().model
  return base.run(
    base.data('digits'), digits_latefusion.stage('product_of_experts', joint=joint)
  )
