"""MIMIC-III mortality, statics and series fused by concatenation.

Paper: Madaan et al., NeurIPS 2024; this is its inter-modality model, and MultiBench's
late fusion.
Command: python -m jdyn.train --config configs/mimic_mortality_inter.py
  --config.data.root=DIR
Score: MultiBench 77.9 accuracy; ours: not run.
"""

from configs import base
from configs import mimic_mortality_unimodal as unimodal


def expert():
  """The joint model: 10 and 720 features."""
  return base.feature_fusion(
    {name: unimodal.encoder(name) for name in ('static', 'series')},
    base.fusion('concat'),
    base.encoder('mlp', hidden=(40,)),
  )


def stage():
  """The joint model alone."""
  return unimodal.train(base.stage(expert()))


def get_config():
  """The joint model alone."""
  return unimodal.run('mortality', stage())
