"""MIMIC-III neoplasms, statics and series fused by concatenation.

Whether a diagnosis of ICD-9 140 to 239 was made; otherwise `mimic_mortality_inter`.
Command: python -m jdyn.train --config configs/mimic_icd1_inter.py
  --config.data.root=DIR
Score: MultiBench 91.5 accuracy; ours: not run.
"""

from configs import mimic_mortality_inter as inter
from configs import mimic_mortality_unimodal as unimodal


def get_config():
  """The joint model alone."""
  return unimodal.run('icd1', inter.stage())
