"""I2M2 on ROSMAP multi-omics: unimodal experts times a joint one.

Paper: Madaan et al., arXiv 2405.17613. The experts start fresh and are trained
together, as it does on MIMIC.
Command: python -m jdyn.train --config configs/rosmap_i2m2.py --config.data.root=DIR
Score: docs/confidence.md.
"""

from configs import base, rosmap_concat, rosmap_latefusion


def get_config():
  """One expert per modality, and one of all."""
  joint = rosmap_concat.stage().model
  return base.run(
    base.data('rosmap'), rosmap_latefusion.stage('product_of_experts', joint=joint)
  )
