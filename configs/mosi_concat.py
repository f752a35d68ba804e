"""CMU-MOSI utterance features, text, audio and video fused by concatenation.

Command: python -m jdyn.train --config configs/mosi_concat.py --config.data.root=DIR
Score: docs/gating.md.
"""

from configs import base, mosi_text


def stage():
  """The dense expert: every modality."""
  names = ('text', 'audio', 'video')
  encoders = {name: mosi_text.encoder() for name in names}
  return mosi_text.train(
    base.stage(
      base.feature_fusion(encoders, base.fusion('concat'), base.encoder('mlp'))
    )
  )


def get_config():
  """The dense expert alone."""
  return base.run(base.data('mosi'), stage())
