"""Gated paths on your own arrays: a template to copy.

Command: python -m jdyn.train --config configs/arrays_dyn.py --config.data.root=DIR
Score: yours.

DIR holds `data.npz` (see docs/your_data.md). Here `table` is an array `[N, D]` that is
always at hand and `sensor` a sequence `[N, T, D]` that costs something to look at; put
your own modalities in their place.
"""

from configs import base


def train(config):
  """The settings that all stages share."""
  config.batch_size = 32
  config.epochs = 30
  config.optimizer.learning_rate = base.schedule(3e-3)
  config.select = 'loss'
  return config


def table_encoder():
  """Of a plain array."""
  return base.encoder('mlp', hidden=(32,), features=32)


def cheap():
  """The expert that reads the table alone."""
  return train(base.stage(base.unimodal('table', table_encoder(), base.encoder('mlp'))))


def dear():
  """The expert that reads everything."""
  encoders = {
    'table': table_encoder(),
    'sensor': base.encoder('gru', features=32),
  }
  return train(
    base.stage(
      base.feature_fusion(encoders, base.fusion('concat'), base.encoder('mlp'))
    )
  )


def get_config():
  """Two experts, then a gate that reads the table."""
  config = base.run(
    base.data('arrays'),
    train(
      base.stage(
        base.gated_mixture(
          paths=('cheap', 'dear'),
          gate=base.learned_gate(
            base.encoder('identity'), base.encoder('mlp', hidden=(16,))
          ),
          gate_inputs=('table',),
        )
      )
    ),
  )
  config.experts.cheap = cheap()
  config.experts.dear = dear()
  config.select = 'objective'
  config.loss.budget = 0.2
  return config
