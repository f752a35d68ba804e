"""A narrow ESANet on small images: to try out what the large ones do.

Command: python -m jdyn.train --config configs/nyuv2_tiny.py
Score: not run over seeds.
"""

from configs import base, nyuv2_esanet


def network():
  """ResNet-10 with a quarter of the channels, and a decoder of its width."""
  encoder = base.encoder(
    'resnet', block='basic', blocks=(1, 1, 1, 1), widths=(16, 24, 32, 48)
  )
  return base.esanet(
    dict(rgb=encoder, depth=encoder), widths=(32, 24, 16), blocks=(1, 1, 1)
  )


def train(config):
  """The recipe of the large one, with a few hundred steps."""
  config = nyuv2_esanet.train(config)
  config.optimizer.learning_rate = base.schedule(0.01, 4e-8, name='one_cycle')
  config.batch_size = 4
  config.epochs = 60
  return config


def run(main):
  """A run on small images with 13 classes."""
  data = base.data('nyuv2', num_classes=13, height=96, width=128, valid_fraction=0.25)
  return nyuv2_esanet.run(main, data)


def get_config():
  """The static network."""
  return run(train(base.stage(network())))
