"""MM-IMDB, text expert E1 of DynMM: mean word2vec (300) to 23 genres.

Paper: Xue and Marculescu, CVPR-W 2023, Table 1: micro/macro F1 59.16/47.21.
Command: python -m jdyn.train --config configs/mmimdb_text.py --config.data.root=DIR
Ours: not run on the real file.
"""

from configs import base


def expert(modality, width):
  """Two MLPs without an activation between them, as released."""
  config = base.stage(
    base.unimodal(
      modality,
      base.encoder('mlp', hidden=(width,), features=512),
      base.encoder('mlp', hidden=(512,)),
    )
  )
  config.optimizer.learning_rate = base.schedule(1e-4)
  config.epochs = 1000
  config.select = 'macro_f1'
  return config


def stage():
  """The text expert."""
  return expert('text', 512)


def get_config():
  """The text expert alone."""
  return base.run(base.data('mmimdb'), stage())
