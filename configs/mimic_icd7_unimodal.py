"""MIMIC-III respiratory diseases from one modality: the series, or the statics.

Whether a diagnosis of ICD-9 460 to 519 was made; otherwise `mimic_mortality_unimodal`.
Command: python -m jdyn.train --config configs/mimic_icd7_unimodal.py
  --config.data.root=DIR
The statics alone: --config configs/mimic_icd7_unimodal.py:static, and a --workdir
Score: the better modality in MultiBench 67.6 accuracy; ours: not run.
"""

from configs import mimic_mortality_unimodal as unimodal


def get_config(modality='series'):
  """One expert alone."""
  return unimodal.run('icd7', unimodal.stage(modality))
