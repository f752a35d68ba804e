"""AV-MNIST, audio alone: the spectrogram of a spoken digit.

Command: python -m jdyn.train --config configs/avmnist_audio.py --config.data.root=DIR
Data: `python -m jdyn.prepare avmnist` builds it; not comparable with other AV-MNISTs.
Score: docs/confidence.md.
"""

from configs import avmnist_image, base


def stage():
  """LeNet with 3 channels and 5 more blocks, as in MultiBench."""
  return avmnist_image.train(
    base.stage(
      base.unimodal(
        'audio',
        base.encoder('lenet', channels=3, blocks=5),
        base.encoder('mlp', hidden=(100,)),
      )
    )
  )


def get_config():
  """The audio expert alone."""
  return avmnist_image.run(stage())
