"""A cascade on MM-IMDB: a gate on the text expert, so that most posters are not read.

Command: python -m jdyn.train --config configs/mmimdb_cascade.py --config.data.root=DIR
Ours: not run on the real file.

DynMM's released gate (mmimdb_dyn) reads the features of the poster to decide whether
they are needed, which saves nothing of what computing them costs.
"""

from configs import base, mmimdb_dyn


def stage():
  """The experts of mmimdb_dyn, and a gate on the text expert's output."""
  config = mmimdb_dyn.stage()
  config.model = base.gated_mixture(
    paths=('text', 'joint'),
    gate=base.learned_gate(
      base.encoder('identity'), base.encoder('mlp', hidden=(128,))
    ),
    gate_inputs=('hidden/text', 'confidence/text'),
  )
  return config


def get_config():
  """All three stages."""
  return base.run(base.data('mmimdb'), stage())
