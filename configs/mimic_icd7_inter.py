"""MIMIC-III respiratory diseases, statics and series fused by concatenation.

Whether a diagnosis of ICD-9 460 to 519 was made; otherwise `mimic_mortality_inter`.
Command: python -m jdyn.train --config configs/mimic_icd7_inter.py
  --config.data.root=DIR
Score: MultiBench 68.9 accuracy; ours: not run.
"""

from configs import mimic_mortality_inter as inter
from configs import mimic_mortality_unimodal as unimodal


def get_config():
  """The joint model alone."""
  return unimodal.run('icd7', inter.stage())
