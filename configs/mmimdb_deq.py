"""MM-IMDB, text and image features fused at an equilibrium.

Paper: Ni et al., "Deep equilibrium multimodal fusion", 2023. Encoders, batches and
patience are those of the released code; its learning rate for the fusion is a tenth of
the others', here there is one.
Command: python -m jdyn.train --config configs/mmimdb_deq.py --config.data.root=DIR
Ours: not run on the real file.
"""

from configs import base, mmimdb_concat


def get_config():
  """The equilibrium expert alone."""
  config = mmimdb_concat.stage()
  config.model.fusion = base.fusion('equilibrium', jacobian_probes=1)
  config.loss.jacobian = 0.1
  config.optimizer.learning_rate = base.schedule(1e-3)
  config.batch_size = 256
  config.patience = 6
  return base.run(base.data('mmimdb'), config)
