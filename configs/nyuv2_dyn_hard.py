"""Fusion-level DynMM on NYUv2: a gate decides how long the depth stream runs.

Paper: Xue and Marculescu, Dynamic Multimodal Fusion, CVPR-W 2023 (DynMM-a): two
ResNet-50, random exits first, then a straight-through gate at temperature 1 with a
price on the depth stream. The gate has no noise, as released; the paper's Gumbel noise
is --config.gate.mode=gumbel_straight_through. The price is in the original's unit;
--config.loss.budget_unit=macs charges shares of all multiply-accumulates instead.
ImageNet weights: --config.warm_up.random_exits.pretrained.rgb=W3 and .depth=W1, see
configs/nyuv2_esanet.py.
Command: python -m jdyn.train --config configs/nyuv2_dyn_hard.py --config.data.root=DIR
Published: mIoU 49.9 with 11.1 of the 24.7 GMACs of the depth encoder (Table 3).
Score: not run.
"""

from configs import base, nyuv2_esanet


def model(policy='learned', backbone='resnet50'):
  """Exits behind every stage of the depth stream, and the gate of the paper."""
  gate = base.learned_gate(base.encoder('strided_conv'), base.encoder('identity'))
  return base.gated_stages(nyuv2_esanet.network(backbone), gate, policy)


def warm_up(policy='random', **options):
  """Any exit, so that the network is good at each of them."""
  return nyuv2_esanet.train(base.stage(model(policy, **options)))


def gated(**options):
  """The gate and the network, with a price on the depth stream."""
  config = nyuv2_esanet.train(base.stage(model(**options)))
  config.loss.budget = 1e-4
  config.loss.budget_unit = 'original'
  return config


def stage():
  """Random exits, and then the gate."""
  config = gated()
  config.warm_up.random_exits = warm_up()
  return config


def get_config():
  """DynMM-a."""
  return nyuv2_esanet.run(stage())
