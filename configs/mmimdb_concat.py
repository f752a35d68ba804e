"""MM-IMDB, late fusion expert E2 of DynMM: MaxOut MLPs, concatenated.

Paper: Xue and Marculescu, CVPR-W 2023, Table 1: micro/macro F1 59.55/50.94.
Command: python -m jdyn.train --config configs/mmimdb_concat.py --config.data.root=DIR
Ours: not run on the real file.
"""

from configs import base


def stage():
  """Both modalities, fused by concatenation of 512 features each."""
  config = base.stage(
    base.feature_fusion(
      {
        'text': base.encoder('maxout', hidden=(512, 512)),
        'image': base.encoder('maxout', hidden=(1024, 512)),
      },
      base.fusion('concat'),
      base.encoder('mlp'),
    )
  )
  config.optimizer.learning_rate = base.schedule(8e-3)
  config.epochs = 1000
  config.select = 'macro_f1'
  return config


def get_config():
  """The late fusion expert alone."""
  return base.run(base.data('mmimdb'), stage())
