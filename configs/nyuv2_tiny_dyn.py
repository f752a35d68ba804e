"""A gate over the exits of a narrow ESANet: to try out what the large one does.

Command: python -m jdyn.train --config configs/nyuv2_tiny_dyn.py
Score: docs/segmentation.md; on the stand-in, which says nothing about NYUv2.
"""

from configs import base, nyuv2_tiny


def model(policy='learned'):
  """Exits behind every stage of the depth stream."""
  gate = base.learned_gate(
    base.encoder('strided_conv', widths=(8,)), base.encoder('identity')
  )
  return base.gated_stages(nyuv2_tiny.network(), gate, policy)


def get_config():
  """Random exits, and then a straight-through gate that pays for MACs."""
  config = nyuv2_tiny.train(base.stage(model()))
  config.loss.budget = 0.1
  config.warm_up.random_exits = nyuv2_tiny.train(base.stage(model('random')))
  return nyuv2_tiny.run(config)
