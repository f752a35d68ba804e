"""CMU-MOSEI, late fusion expert E2 of DynMM: three Transformers, concatenated.

Paper: Xue and Marculescu, CVPR-W 2023, Table 2: accuracy 79.54, MAE 0.60.
Command: python -m jdyn.train --config configs/mosei_concat.py --config.data.root=DIR
Ours: not run on the real file.
"""

from configs import base


def stage():
  """One Transformer per modality; 300 features together."""
  config = base.stage(
    base.feature_fusion(
      {
        'vision': base.encoder('transformer', features=60),
        'audio': base.encoder('transformer', features=120),
        'text': base.encoder('transformer', features=120),
      },
      base.fusion('concat'),
      base.encoder('mlp', hidden=(128,)),
    )
  )
  config.optimizer.learning_rate = base.schedule(1e-4)
  config.optimizer.weight_decay = 1e-4
  config.batch_size = 32
  config.epochs = 1000
  config.select = 'mae'
  return config


def get_config():
  """The late fusion expert alone."""
  return base.run(base.data('mosei'), stage())
