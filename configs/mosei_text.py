"""CMU-MOSEI, text expert E1 of DynMM: a Transformer on GloVe sequences.

Paper: Xue and Marculescu, CVPR-W 2023, Table 2: accuracy 78.35, MAE 0.62.
Command: python -m jdyn.train --config configs/mosei_text.py --config.data.root=DIR
Ours: not run on the real file.
"""

from configs import base


def stage():
  """Five post-norm blocks of width 120 without positions, last step read."""
  config = base.stage(
    base.unimodal(
      'text',
      base.encoder('transformer', features=120),
      base.encoder('mlp', hidden=(64,)),
    )
  )
  config.optimizer.learning_rate = base.schedule(1e-4)
  config.batch_size = 32
  config.epochs = 100
  config.select = 'mae'
  return config


def get_config():
  """The text expert alone."""
  return base.run(base.data('mosei'), stage())
