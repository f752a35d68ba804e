"""MIMIC-III mortality from one modality: the series, or the statics.

Paper: Madaan et al., "Jointly modeling inter- and intra-modality dependencies",
NeurIPS 2024; widths, optimiser and epochs are those of the released code.
Command: python -m jdyn.train --config configs/mimic_mortality_unimodal.py
  --config.data.root=DIR
The statics alone: --config configs/mimic_mortality_unimodal.py:static, and a --workdir
Score: the better modality in MultiBench 76.7 accuracy; ours: not run.
As released (means and deviations of all rows): --config.data.standardise=published
"""

from configs import base


def encoder(modality, project=0):
  """That of one modality; `project` narrows every state of the GRU."""
  if modality == 'static':
    return base.encoder('mlp', hidden=(10,), features=10)
  return base.encoder('gru', features=30, readout='flatten', project=project)


def expert(modality):
  """A model of `series` or `static` alone."""
  head = base.encoder('mlp', hidden=(40,))
  return base.unimodal(modality, encoder(modality, project=15), head)


def train(config):
  """The settings that all models share."""
  config.batch_size = 40
  config.epochs = 20
  config.patience = 10
  config.optimizer.name = 'rmsprop'
  config.optimizer.learning_rate = base.schedule(1e-3)
  config.optimizer.weight_decay = 0.0
  return config


def stage(modality='series'):
  """One modality; in the released code only this model trains all its epochs."""
  config = train(base.stage(expert(modality)))
  config.patience = -1
  return config


def run(task, main):
  """A run on one of the three tasks.

  Diagnoses are rare, so that accuracy says little of them; the released code picks the
  epoch by average precision, here the loss does it.
  """
  config = base.run(base.data('mimic', task=task), main)
  config.select = '' if task == 'mortality' else 'loss'
  return config


def get_config(modality='series'):
  """One expert alone."""
  return run('mortality', stage(modality))
