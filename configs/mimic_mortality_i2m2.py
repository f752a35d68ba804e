"""I2M2 on MIMIC-III mortality: an expert per modality and a joint one, multiplied.

Paper: Madaan et al., "Jointly modeling inter- and intra-modality dependencies",
NeurIPS 2024. The three experts are trained together, from scratch.
Command: python -m jdyn.train --config configs/mimic_mortality_i2m2.py
  --config.data.root=DIR
Score: paper 78.10 accuracy; ours: not run.
"""

from configs import base
from configs import mimic_mortality_inter as inter
from configs import mimic_mortality_unimodal as unimodal


def stage():
  """Three experts and their product."""
  experts = {name: unimodal.expert(name) for name in ('static', 'series')}
  return unimodal.train(
    base.stage(
      base.decision_fusion(
        base.fusion('product_of_experts'), experts=experts | {'joint': inter.expert()}
      )
    )
  )


def get_config():
  """All of it in one stage."""
  return unimodal.run('mortality', stage())
