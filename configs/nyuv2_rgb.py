"""ESANet on NYUv2 with RGB alone: what one modality can do.

Paper: Seichter et al., ICRA 2021 (the network of one modality). ImageNet weights and
momentum: see configs/nyuv2_esanet.py.
Command: python -m jdyn.train --config configs/nyuv2_rgb.py --config.data.root=DIR
Score: not run.
"""

from configs import base, nyuv2_esanet


def get_config():
  """One stream."""
  network = nyuv2_esanet.network(modalities=('rgb',))
  return nyuv2_esanet.run(nyuv2_esanet.train(base.stage(network)))
