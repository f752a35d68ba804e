"""MIMIC-III neoplasms, the product of one expert per modality.

Whether a diagnosis of ICD-9 140 to 239 was made; otherwise `mimic_mortality_intra`.
Command: python -m jdyn.train --config configs/mimic_icd1_intra.py
  --config.data.root=DIR
Score: not seen; ours: not run.
"""

from configs import mimic_mortality_intra as intra
from configs import mimic_mortality_unimodal as unimodal


def get_config():
  """All of it in one stage."""
  return unimodal.run('icd1', intra.stage())
