"""ROSMAP multi-omics, three views fused by concatenation: Alzheimer's or control.

Command: python -m jdyn.train --config configs/rosmap_concat.py --config.data.root=DIR
Score: docs/gating.md.
"""

from configs import base

VIEWS = ('mrna', 'methylation', 'mirna')


def encoder():
  """Of one view; small, since there are 245 training patients."""
  return base.encoder('mlp', features=32, dropout=0.5)


def train(config):
  """The settings that all stages share."""
  config.batch_size = 32
  config.epochs = 300
  config.patience = 15
  config.optimizer.learning_rate = base.schedule(1e-3)
  config.select = 'loss'
  return config


def stage():
  """The dense expert: every view."""
  encoders = {view: encoder() for view in VIEWS}
  return train(
    base.stage(
      base.feature_fusion(encoders, base.fusion('concat'), base.encoder('mlp'))
    )
  )


def get_config():
  """The dense expert alone."""
  return base.run(base.data('rosmap'), stage())
