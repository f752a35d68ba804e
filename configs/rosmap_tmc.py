"""TMC on ROSMAP multi-omics: evidence, combined by Dempster's rule.

Paper: Han et al., Trusted Multi-View Classification, ICLR 2021.
Command: python -m jdyn.train --config configs/rosmap_tmc.py --config.data.root=DIR
Score: docs/confidence.md.
"""

from configs import base, rosmap_latefusion


def stage():
  """The evidential loss of all modalities together and of each."""
  config = rosmap_latefusion.stage('evidential')
  config.loss.supervised = 0.0
  config.loss.evidential = 1.0
  return config


def get_config():
  """TMC."""
  return base.run(base.data('rosmap'), stage())
