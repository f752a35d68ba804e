"""AV-MNIST, image and audio fused by concatenation.

Command: python -m jdyn.train --config configs/avmnist_concat.py --config.data.root=DIR
Data: `python -m jdyn.prepare avmnist` builds it; not comparable with other AV-MNISTs.
Score: docs/gating.md.
"""

from configs import avmnist_image, base


def stage():
  """The dense expert: LeNets with 6 channels, as in MultiBench."""
  return avmnist_image.train(
    base.stage(
      base.feature_fusion(
        {
          'image': base.encoder('lenet', channels=6, blocks=3),
          'audio': base.encoder('lenet', channels=6, blocks=5),
        },
        base.fusion('concat'),
        base.encoder('mlp', hidden=(100,)),
      )
    )
  )


def get_config():
  """The dense expert alone."""
  return avmnist_image.run(stage())
