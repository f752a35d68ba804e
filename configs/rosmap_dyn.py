"""Gated paths on ROSMAP: mRNA expression alone, or all three views.

Command: python -m jdyn.train --config configs/rosmap_dyn.py --config.data.root=DIR
Score: docs/gating.md.
"""

from configs import base, rosmap_concat


def mrna():
  """The cheap expert: one assay."""
  return rosmap_concat.train(
    base.stage(base.unimodal('mrna', rosmap_concat.encoder(), base.encoder('mlp')))
  )


def stage():
  """Two experts, then a gate that reads the cheap assay."""
  config = rosmap_concat.train(
    base.stage(
      base.gated_mixture(
        paths=('mrna', 'joint'),
        gate=base.learned_gate(
          base.encoder('identity'), base.encoder('mlp', hidden=(8,))
        ),
        gate_inputs=('mrna',),
      )
    )
  )
  config.experts.mrna = mrna()
  config.experts.joint = rosmap_concat.stage()
  config.select = 'objective'
  config.loss.budget = 0.05
  return config


def get_config():
  """All three stages."""
  return base.run(base.data('rosmap'), stage())
