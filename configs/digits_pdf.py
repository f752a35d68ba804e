"""PDF on scikit-learn's handwritten digits: votes weigh what they learnt to trust.

Paper: Cao et al., Predictive Dynamic Fusion, ICML 2024; with its relative calibration,
which weighs anew at evaluation (--config.model.fusion.relative=False leaves it out).
Command: python -m jdyn.train --config configs/digits_pdf.py
Score: not run over seeds.
"""

from configs import base, digits_latefusion


def stage():
  """The fused prediction, every modality's own, and the error of its confidence."""
  config = digits_latefusion.stage('learned_confidence')
  config.model.fusion.relative = True
  config.loss.per_expert = 1.0
  config.loss.confidence = 1.0
  config.loss.confidence_error = 'absolute'
  return config


def get_config():
  """PDF."""
  return base.run(base.data('digits'), stage())
