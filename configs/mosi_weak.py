"""The ablation with a third, weak expert, on CMU-MOSI: does the gate collapse onto it?

A course project (CMU 11-785) put a weak expert that had overfitted between DynMM's two,
and its gate sent up to four examples of five there. Here the weak expert reads the
video alone and knows its training examples by heart; as the gate's third path it is
free under the released resource loss (loss.budget_unit='original'), which counts the
traffic on the second path. With loss.budget_unit='macs' it costs what it costs, and
with holdout the gate is trained on examples that no expert has seen.
Command: python -m jdyn.train --config configs/mosi_weak.py --config.data.root=DIR
The ablation itself: python -m jdyn.sweep with the same arguments and
  --sweep.config.loss.budget_unit=original,macs --sweep.config.holdout=0,.3
Score: docs/sweeps.md.
"""

from configs import base, mosi_dyn, mosi_text


def video():
  """The weak expert: wide, without dropout or decay, and trained to the end."""
  encoder = base.encoder('maxout', hidden=(256, 128), dropout=0.0)
  config = mosi_text.train(
    base.stage(base.unimodal('video', encoder, base.encoder('mlp')))
  )
  config.optimizer.weight_decay = 0.0
  config.epochs = 60
  config.patience = -1
  config.select = 'accuracy'
  return config


def stage():
  """The experts of mosi_dyn and the weak one, then the gate."""
  config = mosi_dyn.stage()
  config.experts.video = video()
  config.model.paths = ('text', 'joint', 'video')
  config.model.gate_inputs = ('audio', 'text', 'video')
  return config


def get_config():
  """All four stages."""
  return base.run(base.data('mosi'), stage())
