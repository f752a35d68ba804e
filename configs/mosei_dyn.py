"""DynMM on CMU-MOSEI: a gate chooses between the text expert and late fusion.

Paper: Xue and Marculescu, CVPR-W 2023, Table 2: accuracy, MAE and MAdds of the
variants a 79.07/0.62 at 165.5 M, b 79.73/0.61 at 254.5 M, c 79.75/0.60 at 295.8 M.
The budget weight of each is not given.
Command: python -m jdyn.train --config configs/mosei_dyn.py --config.data.root=DIR
Ours: not run on the real file.

The released learning rate, 1e-6, hardly moves the gate from where it starts; here it
is 1e-4. The released code pads to the longest of a batch, so that its output depends
on the batch: data.padding='batch_max'.
"""

from configs import base, mosei_concat, mosei_text


def stage():
  """Two experts, then the gate, a narrow Transformer on all modalities."""
  config = base.stage(
    base.gated_mixture(
      paths=('text', 'joint'),
      gate=base.learned_gate(
        base.encoder('transformer', features=10), base.encoder('mlp')
      ),
      gate_inputs=('audio', 'text', 'vision'),
    )
  )
  config.experts.text = mosei_text.stage()
  config.experts.joint = mosei_concat.stage()
  config.optimizer.learning_rate = base.schedule(1e-4)
  config.optimizer.weight_decay = 1e-4
  config.batch_size = 32
  config.epochs = 50
  config.select = 'objective'
  config.loss.budget = 0.1
  return config


def get_config():
  """All three stages."""
  return base.run(base.data('mosei'), stage())
