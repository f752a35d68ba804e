"""Late fusion on AV-MNIST: the mean of the modalities' logits.

The static baseline of Zhang et al., ICML 2023, trains the fused prediction alone.
With --config.loss.per_expert=1 every modality is trained too, as in QMF; the published
comparison lacks that one.
Command: python -m jdyn.train --config configs/avmnist_latefusion.py
  --config.data.root=DIR
Data: `python -m jdyn.prepare avmnist` builds it; not comparable with other AV-MNISTs.
Score: docs/confidence.md.
"""

from configs import avmnist_audio, avmnist_image, base


def experts():
  """One model per modality."""
  return {'image': avmnist_image.stage().model, 'audio': avmnist_audio.stage().model}


def stage(fusion, **beside):
  """Experts that vote under a fusion: of one modality each, and others `beside`."""
  return avmnist_image.train(
    base.stage(base.decision_fusion(base.fusion(fusion), experts() | beside))
  )


def get_config():
  """The plain mean."""
  return avmnist_image.run(stage('average'))
