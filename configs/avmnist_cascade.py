"""A cascade on AV-MNIST: the sound is read where the image's expert is not sure.

Command: python -m jdyn.train --config configs/avmnist_cascade.py --config.data.root=DIR
Data: `python -m jdyn.prepare avmnist` builds it; not comparable with other AV-MNISTs.
Score: not run over seeds.
"""

from configs import avmnist_dyn, avmnist_image, base


def stage():
  """The experts of avmnist_dyn, and a gate on the image expert's output."""
  config = avmnist_dyn.stage()
  config.model = base.gated_mixture(
    paths=('image', 'joint'),
    gate=base.learned_gate(base.encoder('identity'), base.encoder('mlp', hidden=(16,))),
    gate_inputs=('hidden/image', 'confidence/image'),
  )
  return config


def get_config():
  """All three stages."""
  return avmnist_image.run(stage())
