"""I2M2 on AV-MNIST: unimodal experts times a joint one.

Paper: Madaan et al., arXiv 2405.17613. As there, the three experts are trained first,
by themselves, and then tuned together.
Command: python -m jdyn.train --config configs/avmnist_i2m2.py --config.data.root=DIR
Data: `python -m jdyn.prepare avmnist` builds it; not comparable with other AV-MNISTs.
Score: docs/confidence.md.
"""

from configs import avmnist_audio, avmnist_concat, avmnist_image, base


def stage():
  """Three experts, then all of them as one product."""
  config = avmnist_image.train(
    base.stage(base.decision_fusion(base.fusion('product_of_experts')))
  )
  config.experts.image = avmnist_image.stage()
  config.experts.audio = avmnist_audio.stage()
  config.experts.joint = avmnist_concat.stage()
  config.freeze = 'none'
  config.optimizer.learning_rate = base.schedule(0.01)
  return config


def get_config():
  """All four stages."""
  return avmnist_image.run(stage())
