"""DynMM on MM-IMDB: a gate chooses between the text expert and late fusion.

Paper: Xue and Marculescu, CVPR-W 2023, Table 1: micro/macro F1 and MAdds of the
variants a 59.57/48.84 at 1.6 M, b 59.59/50.42 at 7.8 M, c 59.72/51.20 at 9.8 M. The
budget weight of each is not given.
Command: python -m jdyn.train --config configs/mmimdb_dyn.py --config.data.root=DIR
Ours: not run on the real file.

The released gate reads both modalities, so a text-only decision still needs the
image's features; model.gate_inputs=('text',) changes that. Its resource loss counts
the traffic on the second path: loss.budget_unit='original'.
"""

from configs import base, mmimdb_concat, mmimdb_text


def stage():
  """Two experts, then the gate."""
  config = base.stage(
    base.gated_mixture(
      paths=('text', 'joint'),
      gate=base.learned_gate(
        base.encoder('identity'), base.encoder('mlp', hidden=(128,))
      ),
      gate_inputs=('image', 'text'),
    )
  )
  config.experts.text = mmimdb_text.stage()
  config.experts.joint = mmimdb_concat.stage()
  config.optimizer.learning_rate = base.schedule(1e-4)
  config.epochs = 50
  config.select = 'macro_f1'
  config.loss.budget = 0.1
  return config


def get_config():
  """All three stages."""
  return base.run(base.data('mmimdb'), stage())
