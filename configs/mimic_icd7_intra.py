"""MIMIC-III respiratory diseases, the product of one expert per modality.

Whether a diagnosis of ICD-9 460 to 519 was made; otherwise `mimic_mortality_intra`.
Command: python -m jdyn.train --config configs/mimic_icd7_intra.py
  --config.data.root=DIR
Score: not seen; ours: not run.
"""

from configs import mimic_mortality_intra as intra
from configs import mimic_mortality_unimodal as unimodal


def get_config():
  """All of it in one stage."""
  return unimodal.run('icd7', intra.stage())
