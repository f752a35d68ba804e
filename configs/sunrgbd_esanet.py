"""ESANet on SUN RGB-D: RGB and depth, both streams to the end.

Paper: Seichter et al., Efficient RGB-D semantic segmentation for indoor scene analysis,
ICRA 2021. ImageNet weights and momentum: see configs/nyuv2_esanet.py.
Command: python -m jdyn.train --config configs/sunrgbd_esanet.py --config.data.root=DIR
Data: `python -m jdyn.prepare sunrgbd` builds it.
Published: mIoU 48.17 on the test split (ESANet, Table I).
Score: not run.
"""

from configs import base, nyuv2_esanet


def get_config():
  """ESANet with ResNet-34 of NonBottleneck1D blocks."""
  main = nyuv2_esanet.train(base.stage(nyuv2_esanet.network()))
  return nyuv2_esanet.run(main, base.data('sunrgbd'))
