"""ROSMAP multi-omics, three views fused at an equilibrium.

Paper: the method of Ni et al., "Deep equilibrium multimodal fusion", 2023, which gives
no figure for ROSMAP; its code has a branch for it.
Command: python -m jdyn.train --config configs/rosmap_deq.py --config.data.root=DIR
Score: see README. Settings are those of `rosmap_concat`; only the fusion differs.
"""

from configs import base, rosmap_concat


def stage():
  """The equilibrium expert: every view."""
  encoders = {view: rosmap_concat.encoder() for view in rosmap_concat.VIEWS}
  fusion = base.fusion('equilibrium', jacobian_probes=1)
  config = rosmap_concat.train(
    base.stage(base.feature_fusion(encoders, fusion, base.encoder('mlp')))
  )
  config.loss.jacobian = 0.1
  return config


def get_config():
  """The equilibrium expert alone."""
  return base.run(base.data('rosmap'), stage())
