"""fastMRI knees, four findings from the phase of the image alone.

Paper: Madaan et al., NeurIPS 2024; otherwise `fastmri_magnitude`.
Command: python -m jdyn.train --config configs/fastmri_phase.py --config.data.root=DIR
Score: not seen; ours: not run.
"""

from configs import base
from configs import fastmri_magnitude as magnitude


def stage():
  """The phase alone."""
  return magnitude.train(base.stage(magnitude.expert('phase')), 1e-4, 1e-1)


def get_config():
  """The phase alone."""
  return magnitude.run(stage())
