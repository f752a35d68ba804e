"""Late fusion on scikit-learn's handwritten digits: the mean of the modalities' logits.

The static baseline of Zhang et al., ICML 2023, trains the fused prediction alone.
With --config.loss.per_expert=1 every modality is trained too, as in QMF; the published
comparison lacks that one.
Command: python -m jdyn.train --config configs/digits_latefusion.py
Score: not run over seeds.
"""

from configs import base, digits_dyn


def experts():
  """One model per modality: of a 4x4 thumbnail, and of all 8x8 pixels."""
  fine = base.encoder('mlp', hidden=(128,), features=64)
  return {
    'coarse': digits_dyn.coarse().model,
    'fine': base.unimodal('fine', fine, base.encoder('mlp')),
  }


def train(config):
  """The settings that all methods share."""
  config.batch_size = 64
  config.epochs = 30
  config.optimizer.learning_rate = base.schedule(3e-3)
  return config


def stage(fusion, **beside):
  """Experts that vote under a fusion: of one modality each, and others `beside`."""
  return train(
    base.stage(base.decision_fusion(base.fusion(fusion), experts() | beside))
  )


def get_config():
  """The plain mean."""
  return base.run(base.data('digits'), stage('average'))
