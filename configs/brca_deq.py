"""DEQ fusion on TCGA-BRCA: five subtypes of breast cancer from three omics.

Paper: Ni et al., "Deep equilibrium multimodal fusion", 2023. Its scores are those of
the best test epoch. Widths, optimiser and epochs are those of the released code; for
the differences see `rosmap_deq`.

Command: python -m jdyn.train --config configs/brca_deq.py --config.data.root=DIR
Ours: not run on the real files.
"""

from configs import base, rosmap_deq


def get_config():
  """The equilibrium model alone."""
  config = rosmap_deq.stage(features=500)
  config.batch_size = 490  # All patients that are trained on.
  config.epochs = 2500
  return base.run(base.data('brca', scaling='train'), config)
