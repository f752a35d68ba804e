"""ESANet on NYUv2: RGB and depth, both streams to the end; the static baseline.

Paper: Seichter et al., Efficient RGB-D semantic segmentation for indoor scene analysis,
ICRA 2021. Its encoders start from ImageNet:
--config.pretrained.rgb=W3 --config.pretrained.depth=W1, where W3 and W1 are what
`python -m jdyn.convert imagenet_resnet` makes of a checkpoint for 3 and 1 channels.
torch's one-cycle schedule also moves the momentum, unasked, as released; here it is the
paper's 0.9, and --config.optimizer.cycle_momentum=compat does as released.
Command: python -m jdyn.train --config configs/nyuv2_esanet.py --config.data.root=DIR
Data: `python -m jdyn.prepare nyuv2` builds it.
Published: mIoU 50.30 on the test split (ESANet, Table I), of the best of several
trainings and of epochs that were chosen on that split; ours are chosen on images held
out from training.
Score: not run.
"""

from configs import base

BLOCKS = {
  'resnet18': dict(block='basic', blocks=(2, 2, 2, 2)),
  'resnet34': dict(block='basic', blocks=(3, 4, 6, 3)),
  'resnet34_nbt1d': dict(block='non_bottleneck_1d', blocks=(3, 4, 6, 3)),
  'resnet50': dict(block='bottleneck', blocks=(3, 4, 6, 3)),
}
"""Backbones by their usual names."""


def network(backbone='resnet34_nbt1d', modalities=('rgb', 'depth')):
  """The network, with one encoder per modality."""
  encoders = {name: base.encoder('resnet', **BLOCKS[backbone]) for name in modalities}
  return base.esanet(encoders)


def train(config):
  """The recipe of the paper."""
  config.loss.side_outputs = 1.0
  config.optimizer.name = 'sgd'
  config.optimizer.learning_rate = base.schedule(0.01, 4e-8, name='one_cycle')
  config.optimizer.momentum = 0.9
  config.optimizer.nesterov = True
  config.optimizer.weight_decay = 1e-4
  config.optimizer.clip_norm = 0.0
  config.pretrained.update(dict(rgb='', depth=''))
  config.batch_size = 8
  config.epochs = 500
  config.patience = -1
  return config


def run(main, data=None):
  """A run on these images; one step per call, since a batch is large."""
  config = base.run(base.data('nyuv2') if data is None else data, main)
  config.steps_per_call = 1
  return config


def get_config():
  """ESANet with ResNet-34 of NonBottleneck1D blocks."""
  return run(train(base.stage(network())))
