"""fastMRI knees, magnitude and phase as two channels of one image.

Paper: Madaan et al., NeurIPS 2024; this is its inter-modality model.
Command: python -m jdyn.train --config configs/fastmri_inter.py --config.data.root=DIR
Score: not seen; ours: not run.
"""

from configs import base
from configs import fastmri_magnitude as magnitude


def expert():
  """Channels side by side, and one network behind them."""
  return base.feature_fusion(
    {name: base.encoder('identity', flatten=False) for name in ('magnitude', 'phase')},
    base.fusion('concat', flatten=False),
    magnitude.network(),
  )


def stage():
  """The joint model alone."""
  return magnitude.train(base.stage(expert()), 1e-4, 1e-2)


def get_config():
  """The joint model alone."""
  return magnitude.run(stage())
