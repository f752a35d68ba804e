"""CMU-MOSI utterance features, text alone: 100 features to positive or negative.

Command: python -m jdyn.train --config configs/mosi_text.py --config.data.root=DIR
Score: docs/gating.md.
"""

from configs import base


def encoder():
  """Of one modality; small, since there are 1,200 training utterances."""
  return base.encoder('mlp', hidden=(64,), features=32, dropout=0.5)


def train(config):
  """The settings that all stages share."""
  config.batch_size = 64
  config.epochs = 40
  config.optimizer.learning_rate = base.schedule(1e-3)
  config.select = 'loss'
  return config


def stage():
  """The text expert."""
  return train(base.stage(base.unimodal('text', encoder(), base.encoder('mlp'))))


def get_config():
  """The text expert alone."""
  return base.run(base.data('mosi'), stage())
