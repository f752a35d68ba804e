"""DynMM's gated paths on scikit-learn's handwritten digits: the quick start.

Paper: the method of Xue and Marculescu, CVPR-W 2023; the task is ours.
Command: python -m jdyn.train --config configs/digits_dyn.py
The cheap path reads a 4x4 thumbnail, the dear one that and all 8x8 pixels.
Score: docs/gating.md.
"""

from configs import base


def coarse():
  """The cheap expert."""
  config = base.stage(
    base.unimodal(
      'coarse',
      base.encoder('mlp', hidden=(16,), features=16),
      base.encoder('mlp'),
    )
  )
  config.batch_size = 64
  config.epochs = 30
  config.optimizer.learning_rate = base.schedule(3e-3)
  return config


def both():
  """The dear expert: both modalities, fused by concatenation."""
  config = base.stage(
    base.feature_fusion(
      dict(
        coarse=base.encoder('mlp', hidden=(32,), features=32),
        fine=base.encoder('mlp', hidden=(128,), features=64),
      ),
      base.fusion('concat'),
      base.encoder('mlp', hidden=(64,)),
    )
  )
  config.batch_size = 64
  config.epochs = 30
  config.optimizer.learning_rate = base.schedule(3e-3)
  return config


def get_config():
  """Two experts, then a gate that looks at the thumbnail."""
  config = base.get_config()
  config.data = base.data('digits')
  config.experts.coarse = coarse()
  config.experts.both = both()
  config.model = base.gated_mixture(
    paths=('coarse', 'both'),
    gate=base.learned_gate(base.encoder('identity'), base.encoder('mlp', hidden=(16,))),
    gate_inputs=('coarse',),
  )
  config.loss.budget = 0.3
  # The task's loss and the cost together: by accuracy alone, cost would not count.
  config.select = 'objective'
  config.batch_size = 64
  config.epochs = 30
  config.optimizer.learning_rate = base.schedule(3e-3)
  return config
