"""PDF on CMU-MOSI utterance features: modalities vote with the confidence they learn.

Paper: Cao et al., Predictive Dynamic Fusion, ICML 2024; with its relative calibration,
which weighs anew at evaluation (--config.model.fusion.relative=False leaves it out).
Command: python -m jdyn.train --config configs/mosi_pdf.py --config.data.root=DIR
Score: docs/confidence.md.
"""

from configs import base, mosi_latefusion


def stage():
  """The fused prediction, every modality's own, and the error of its confidence."""
  config = mosi_latefusion.stage('learned_confidence')
  config.model.fusion.relative = True
  config.loss.per_expert = 1.0
  config.loss.confidence = 1.0
  config.loss.confidence_error = 'absolute'
  return config


def get_config():
  """PDF."""
  return base.run(base.data('mosi'), stage())
