"""DEQ fusion on ROSMAP: the views of MM-Dynamics, fused at an equilibrium.

Ni et al., "Deep equilibrium multimodal fusion", 2023. The released code has a branch
for ROSMAP (hidden width 300), for which the paper gives no figure. It adds the loss
terms of a view with weights that depend on the views' order, scores every 50th epoch
on the test split and reports the best; here they are as in MM-Dynamics, and a fifth of
the training patients picks the epoch. The Jacobian's weight is the released one; with 1
or less, training makes the fused map so steep that most examples reach no fixed point.
The learning rate (of 1e-4, 5e-4 and 1e-3) was picked on the validation split.

Command: python -m jdyn.train --config configs/rosmap_deq.py --config.data.root=DIR
Score: docs/equilibrium.md.
"""

from configs import base, rosmap_mmdynamics


def stage(features=300):
  """Raw views, a hidden layer per view, and the equilibrium of what comes out."""
  config = rosmap_mmdynamics.stage()
  config.model.fusion = base.fusion(
    'mm_dynamics',
    features=features,
    fusion=base.fusion('equilibrium', max_steps=40, jacobian_probes=1),
  )
  config.loss.jacobian = 20.0
  config.optimizer.learning_rate = base.schedule(1e-3)
  config.epochs = 200
  config.optimizer.clip_norm = 30.0
  return config


def get_config():
  """The equilibrium model alone."""
  return base.run(base.data('rosmap', scaling='train'), stage())
