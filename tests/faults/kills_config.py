"""A run that has everything that a restart could lose, and is short.

Three stages, of which the second and the third need what the first ones left; BatchNorm
and dropout; a history of losses; and the count of epochs without a better one.
"""

from configs import base, digits_dyn

EPOCHS = 2


def _short(config):
  config.batch_size = 72  # Sixteen steps an epoch, and four calls.
  config.epochs = EPOCHS
  config.patience = 1
  config.optimizer.learning_rate = base.schedule(3e-3)


def get_config():
  """Two experts, then a gate between them that QMF's ranking loss trains too."""
  config = digits_dyn.get_config()
  experts = config.experts
  fine = base.encoder('maxout', hidden=(24,), features=16)
  with experts.both.model.encoders.unlocked():
    experts.both.model.encoders.fine = fine
  for stage in (config, experts.both, experts.coarse):
    _short(stage)
  config.loss.rank = 0.1
  config.steps_per_call = 4
  config.checkpoint_seconds = 0.0
  return config
