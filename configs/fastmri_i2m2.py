"""I2M2 on fastMRI knees: experts on magnitude, on phase and on both, multiplied.

Paper: Madaan et al., "Jointly modeling inter- and intra-modality dependencies",
NeurIPS 2024. The three networks are trained together, from scratch.
Command: python -m jdyn.train --config configs/fastmri_i2m2.py --config.data.root=DIR
Score: not seen; ours: not run.
"""

from configs import base
from configs import fastmri_inter as inter
from configs import fastmri_magnitude as magnitude


def stage():
  """Three experts and their product, label by label."""
  experts = {name: magnitude.expert(name) for name in ('magnitude', 'phase')}
  return magnitude.train(
    base.stage(
      base.decision_fusion(
        base.fusion('product_of_experts'), experts=experts | {'joint': inter.expert()}
      )
    ),
    1e-6,
    1e-2,
  )


def get_config():
  """All of it in one stage."""
  return magnitude.run(stage())
