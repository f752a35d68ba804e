"""Fusion-level DynMM on NYUv2 with a gate in front of each stage of the depth stream.

As configs/nyuv2_dyn_hard.py, but whether the depth stream goes on is decided stage by
stage, on what both streams have made of the images so far. The released code has such
gates and cannot train them (see jdyn/models/local_gates.py); the paper's numbers are
not of them.
Command: python -m jdyn.train --config configs/nyuv2_dyn_local.py
  --config.data.root=DIR
Score: not run.
"""

from configs import base, nyuv2_dyn_hard, nyuv2_esanet


def model(policy='learned', backbone='resnet50'):
  """Exits behind every stage of the depth stream, each with a gate before it."""
  gate = base.learned_gate(base.encoder('strided_conv'), base.encoder('identity'))
  return base.locally_gated_stages(nyuv2_esanet.network(backbone), gate, policy)


def get_config():
  """Random exits, and then the gates."""
  config = nyuv2_dyn_hard.stage()
  config.model = model()
  config.warm_up.random_exits.model = model('random')
  return nyuv2_esanet.run(config)
