"""Gated paths on AV-MNIST: the image alone, or image and audio.

Command: python -m jdyn.train --config configs/avmnist_dyn.py --config.data.root=DIR
Data: `python -m jdyn.prepare avmnist` builds it; not comparable with other AV-MNISTs.
Score: docs/gating.md.
"""

from configs import avmnist_concat, avmnist_image, base


def stage():
  """Two experts, then a gate that reads the image."""
  config = base.stage(
    base.gated_mixture(
      paths=('image', 'joint'),
      gate=base.learned_gate(
        base.encoder('identity'), base.encoder('mlp', hidden=(64,))
      ),
      gate_inputs=('image',),
    )
  )
  config.experts.image = avmnist_image.stage()
  config.experts.joint = avmnist_concat.stage()
  config.batch_size = 128
  config.select = 'objective'
  config.loss.budget = 0.1
  return config


def get_config():
  """All three stages."""
  return avmnist_image.run(stage())
