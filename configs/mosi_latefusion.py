"""Late fusion on CMU-MOSI utterance features: the mean of the modalities' logits.

The static baseline of Zhang et al., ICML 2023, trains the fused prediction alone.
With --config.loss.per_expert=1 every modality is trained too, as in QMF; the published
comparison lacks that one.
Command: python -m jdyn.train --config configs/mosi_latefusion.py --config.data.root=DIR
Score: docs/confidence.md.
"""

from configs import base, mosi_text


def experts():
  """One model per modality."""
  return {
    name: base.unimodal(name, mosi_text.encoder(), base.encoder('mlp'))
    for name in ('text', 'audio', 'video')
  }


def stage(fusion, **beside):
  """Experts that vote under a fusion: of one modality each, and others `beside`."""
  return mosi_text.train(
    base.stage(base.decision_fusion(base.fusion(fusion), experts() | beside))
  )


def get_config():
  """The plain mean."""
  return base.run(base.data('mosi'), stage('average'))
