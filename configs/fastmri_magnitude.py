"""fastMRI knees, four findings from the magnitude of the image alone.

Paper: Madaan et al., "Jointly modeling inter- and intra-modality dependencies",
NeurIPS 2024; the network and the optimiser are those of the released code, which picks
the epoch by the mean area under the ROC curves; here the (weighted) loss does it.
Command: python -m jdyn.train --config configs/fastmri_magnitude.py
  --config.data.root=DIR
Data: `python -m jdyn.prepare fastmri` cuts them from the volumes.
Score: not seen; ours: not run.
"""

from configs import base


def network():
  """PreActResNet18, as an encoder or as a head."""
  return base.encoder('preact_resnet')


def expert(modality):
  """A model of `magnitude` or `phase` alone."""
  return base.unimodal(modality, network(), base.encoder('mlp'))


def train(config, learning_rate, weight_decay):
  """The settings that all models share, but for two."""
  config.batch_size = 16
  config.epochs = 200
  config.patience = 5
  config.select = 'objective'
  config.optimizer.learning_rate = base.schedule(learning_rate)
  config.optimizer.weight_decay = weight_decay
  config.optimizer.clip_norm = 0.0
  return config


def stage():
  """The magnitude alone."""
  return train(base.stage(expert('magnitude')), 1e-5, 1e-3)


def run(main):
  """A run on fastMRI; the images of a call of few steps fit into memory."""
  config = base.run(base.data('fastmri'), main)
  config.steps_per_call = 10
  return config


def get_config():
  """The magnitude alone."""
  return run(stage())
