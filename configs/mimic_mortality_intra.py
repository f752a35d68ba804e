"""MIMIC-III mortality, the product of one expert per modality.

Paper: Madaan et al., NeurIPS 2024; this is its intra-modality model. Both experts are
trained together, from scratch.
Command: python -m jdyn.train --config configs/mimic_mortality_intra.py
  --config.data.root=DIR
Score: not seen; ours: not run.
As released, where the test averages the probabilities that training multiplied:
  --config.model.fusion.evaluate=mixture
"""

from configs import base
from configs import mimic_mortality_unimodal as unimodal


def stage():
  """Both experts and their product."""
  return unimodal.train(
    base.stage(
      base.decision_fusion(
        base.fusion('product_of_experts'),
        experts={name: unimodal.expert(name) for name in ('static', 'series')},
      )
    )
  )


def get_config():
  """All of it in one stage."""
  return unimodal.run('mortality', stage())
