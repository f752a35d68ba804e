"""What trusted multi-view classification is trained with (TMC; Han et al., 2021)."""

import jax.numpy as jnp

from jdyn.losses.term import LossTerm, stateless
from jdyn.losses.weighting import where_present
from jdyn.ops.evidence import (
  divergence_from_uniform,
  expected_cross_entropy,
  misleading,
)
from jdyn.typing import weighted_mean


def evidential(task) -> LossTerm:
  """Expected cross-entropy, and no evidence for wrong classes, of all and each view.

  Per Dirichlet, `E[CE] + a KL(without the true class's evidence || uniform)`; the
  annealing `a` is `hparams['evidential_annealing']`. It reads the log of Dirichlet
  parameters as logits, which fusion `evidential` gives.

  Args:
    task: multiclass.
  """

  def loss(outputs, batch, hparams, axis_name):
    del axis_name
    if 'evidence/vacuity' not in outputs.aux:
      raise ValueError(
        "loss 'evidential' needs fusion evidential; set that, or loss.evidential=0."
      )
    annealing = hparams['evidential_annealing']

    def of(logits):
      alpha = jnp.exp(logits)
      wrong = divergence_from_uniform(misleading(alpha, batch['label']))
      return expected_cross_entropy(alpha, batch['label']) + annealing * wrong

    total = of(outputs.logits)
    for name, logits in outputs.unimodal.items():
      total += where_present(outputs, name, of(logits))
    return weighted_mean(total, task.weights(batch))

  return stateless(loss)
