"""Losses of a decoder's logits at coarser scales (ESANet)."""

import jax
import jax.numpy as jnp

from jdyn.losses.term import LossTerm
from jdyn.typing import Mean, weighted_mean

_PREFIX = 'down_'


def side_outputs(task) -> LossTerm:
  """The task's loss of every side output, each a mean of its own, summed.

  At scale k the label is every k-th pixel of every k-th row. Decoders have side outputs
  in training alone, and so evaluation leaves this term out.

  Args:
    task: of labels `[B, H, W]`, such as `segmentation`.
  """

  def apply(outputs, batch, hparams, memory, axis_name):
    del hparams
    sides = {
      int(name.removeprefix(_PREFIX)): logits
      for name, logits in outputs.aux.items()
      if name.startswith(_PREFIX)
    }
    if not sides:
      raise ValueError(
        "loss 'side_outputs' needs a model with logits at coarser scales, such as "
        'esanet; set loss.side_outputs=0.'
      )
    total = jnp.zeros(())
    for scale, logits in sorted(sides.items()):
      small = {**batch, 'label': batch['label'][:, ::scale, ::scale]}
      mean = weighted_mean(task.loss(logits, small), task.weights(small))
      count = mean.count if axis_name is None else jax.lax.psum(mean.count, axis_name)
      total += mean.total / jnp.where(count > 0, count, 1)
    # Each scale is divided by its own count already.
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    return Mean(total, jnp.ones(()) / devices), memory

  return LossTerm(lambda num_examples: (), apply, in_evaluation=False)
