"""TMC on scikit-learn's handwritten digits: evidence, combined by Dempster's rule.

Paper: Han et al., Trusted Multi-View Classification, ICLR 2021.
Command: python -m jdyn.train --config configs/digits_tmc.py
Score: not run over seeds.
"""

from configs import base, digits_latefusion


def stage():
  """The evidential loss of all modalities together and of each."""
  config = digits_latefusion.stage('evidential')
  config.loss.supervised = 0.0
  config.loss.evidential = 1.0
  return config


def get_config():
  """TMC."""
  return base.run(base.data('digits'), stage())
