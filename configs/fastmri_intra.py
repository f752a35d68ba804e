"""fastMRI knees, the product of an expert on magnitude and one on phase.

Paper: Madaan et al., NeurIPS 2024. Its intra-modality model is named in the released
code but not part of it; here both experts are trained first and tuned together.
Command: python -m jdyn.train --config configs/fastmri_intra.py --config.data.root=DIR
Score: not seen; ours: not run.
"""

from configs import base
from configs import fastmri_magnitude as magnitude
from configs import fastmri_phase as phase


def stage():
  """Two stages of experts, then their product."""
  config = base.stage(base.decision_fusion(base.fusion('product_of_experts')))
  config.experts.magnitude = magnitude.stage()
  config.experts.phase = phase.stage()
  config.freeze = 'none'
  return magnitude.train(config, 1e-6, 1e-2)


def get_config():
  """All three stages."""
  return magnitude.run(stage())
