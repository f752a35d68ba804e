"""MIMIC-III neoplasms from one modality: the series, or the statics.

Whether a diagnosis of ICD-9 140 to 239 was made; otherwise `mimic_mortality_unimodal`.
Command: python -m jdyn.train --config configs/mimic_icd1_unimodal.py
  --config.data.root=DIR
The statics alone: --config configs/mimic_icd1_unimodal.py:static, and a --workdir
Score: the better modality in MultiBench 91.4 accuracy; ours: not run.
"""

from configs import mimic_mortality_unimodal as unimodal


def get_config(modality='series'):
  """One expert alone."""
  return unimodal.run('icd1', unimodal.stage(modality))
