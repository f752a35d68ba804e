"""MM-IMDB, image expert: VGG-16 features (4096) to 23 genres.

Paper: Xue and Marculescu, CVPR-W 2023, Table 1: micro/macro F1 39.99/25.26.
Command: python -m jdyn.train --config configs/mmimdb_image.py --config.data.root=DIR
Ours: not run on the real file.
"""

from configs import base


def stage():
  """Two MLPs without an activation between them, as released."""
  config = base.stage(
    base.unimodal(
      'image',
      base.encoder('mlp', hidden=(1024,), features=512),
      base.encoder('mlp', hidden=(512,)),
    )
  )
  config.optimizer.learning_rate = base.schedule(1e-4)
  config.epochs = 1000
  config.select = 'macro_f1'
  return config


def get_config():
  """The image expert alone."""
  return base.run(base.data('mmimdb'), stage())
