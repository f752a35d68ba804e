"""AV-MNIST, image alone: a digit reduced to few principal components.

Command: python -m jdyn.train --config configs/avmnist_image.py --config.data.root=DIR
Data: `python -m jdyn.prepare avmnist` builds it; not comparable with other AV-MNISTs.
Score: docs/gating.md.
"""

from configs import base


def train(config):
  """The settings that all stages share (MultiBench trains its own 30 epochs)."""
  config.batch_size = 40
  config.epochs = 30
  config.optimizer.name = 'sgd'
  config.optimizer.learning_rate = base.schedule(0.05)
  config.optimizer.weight_decay = 1e-4
  return config


def stage():
  """LeNet with 3 channels, as in MultiBench."""
  return train(
    base.stage(
      base.unimodal(
        'image',
        base.encoder('lenet', channels=3, blocks=3),
        base.encoder('mlp', hidden=(100,)),
      )
    )
  )


def run(main):
  """A run on AV-MNIST, without a loop around the convolutions."""
  config = base.run(base.data('avmnist'), main)
  config.steps_per_call = 2
  config.unroll = 2
  return config


def get_config():
  """The image expert alone."""
  return run(stage())
