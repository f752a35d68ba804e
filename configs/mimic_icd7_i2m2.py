"""I2M2 on MIMIC-III respiratory diseases: two experts and a joint one, multiplied.

Whether a diagnosis of ICD-9 460 to 519 was made; otherwise `mimic_mortality_i2m2`.
Command: python -m jdyn.train --config configs/mimic_icd7_i2m2.py
  --config.data.root=DIR
Score: not seen; ours: not run.
"""

from configs import mimic_mortality_i2m2 as i2m2
from configs import mimic_mortality_unimodal as unimodal


def get_config():
  """All of it in one stage."""
  return unimodal.run('icd7', i2m2.stage())
