"""Gated paths on CMU-MOSI utterance features: text alone, or all three modalities.

Command: python -m jdyn.train --config configs/mosi_dyn.py --config.data.root=DIR
Score: docs/gating.md.
"""

from configs import base, mosi_concat, mosi_text


def stage():
  """Two experts, then a gate that reads the text."""
  config = mosi_text.train(
    base.stage(
      base.gated_mixture(
        paths=('text', 'joint'),
        gate=base.learned_gate(
          base.encoder('identity'), base.encoder('mlp', hidden=(16,))
        ),
        gate_inputs=('text',),
      )
    )
  )
  config.experts.text = mosi_text.stage()
  config.experts.joint = mosi_concat.stage()
  config.select = 'objective'
  config.loss.budget = 0.01
  return config


def get_config():
  """All three stages."""
  return base.run(base.data('mosi'), stage())
