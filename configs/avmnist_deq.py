"""AV-MNIST, image and audio fused at an equilibrium.

Command: python -m jdyn.train --config configs/avmnist_deq.py --config.data.root=DIR
Data: `python -m jdyn.prepare avmnist` builds it; not comparable with other AV-MNISTs.
Score: not run. `avmnist_concat` with another fusion.
"""

from configs import avmnist_concat, avmnist_image, base


def get_config():
  """The equilibrium expert alone."""
  config = avmnist_concat.stage()
  config.model.fusion = base.fusion('equilibrium', features=64, jacobian_probes=1)
  config.loss.jacobian = 0.1
  return avmnist_image.run(config)
