"""TMC on AV-MNIST: evidence, combined by Dempster's rule.

Paper: Han et al., Trusted Multi-View Classification, ICLR 2021.
Command: python -m jdyn.train --config configs/avmnist_tmc.py --config.data.root=DIR
Data: `python -m jdyn.prepare avmnist` builds it; not comparable with other AV-MNISTs.
Score: docs/confidence.md.
"""

from configs import avmnist_image, avmnist_latefusion


def stage():
  """The evidential loss of all modalities together and of each."""
  config = avmnist_latefusion.stage('evidential')
  config.loss.supervised = 0.0
  config.loss.evidential = 1.0
  return config


def get_config():
  """TMC."""
  return avmnist_image.run(stage())
