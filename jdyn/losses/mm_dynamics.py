"""What MM-Dynamics asks of each view: few features, and to know how right it is."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jdyn.losses.term import LossTerm, stateless
from jdyn.losses.weighting import weighted_sum, where_present
from jdyn.typing import weighted_mean

_PREFIX = 'informativeness/'


def informativeness(factors: Mapping[str, float]) -> LossTerm:
  """The mean of the feature gates, summed over the views.

  Gates are positive, so this is an L1 norm: features that do not help get none.

  Args:
    factors: of views that count other than once, by name.
  """

  def loss(outputs, batch, hparams, axis_name):
    del hparams, axis_name
    means = {
      name.removeprefix(_PREFIX): value
      for name, value in outputs.aux.items()
      if name.startswith(_PREFIX)
    }
    if not means:
      raise ValueError(
        "loss 'informativeness' needs a fusion with feature gates, such as "
        'mm_dynamics; set loss.informativeness=0.'
      )
    return weighted_mean(weighted_sum(means, factors), batch['mask'])

  return stateless(loss)


def confidence(
  task, factors: Mapping[str, float], *, detach: bool = True, error: str = 'squared'
) -> LossTerm:
  """Error of each view's confidence, summed over the views.

  A confidence is to be the probability that the view's own classifier gives to the
  true class. MM-Dynamics and Predictive Dynamic Fusion (Cao et al., ICML 2024) ask so.

  Args:
    task: any of `TASKS` that has this probability.
    factors: of views that count other than once, by name.
    detach: whether the classifier is left alone by this term. In the released code of
      MM-Dynamics it is not: it is also pulled towards what the confidence says.
    error: `squared`, or `absolute` as in Predictive Dynamic Fusion.

  Raises:
    ValueError: `error` is neither.
  """
  if error not in ('squared', 'absolute'):
    raise ValueError(f'error={error!r}; expected squared or absolute.')
  measure = jnp.square if error == 'squared' else jnp.abs

  def loss(outputs, batch, hparams, axis_name):
    del hparams, axis_name
    said = {name: outputs.aux.get(f'confidence/{name}') for name in outputs.unimodal}
    if not said or any(value is None for value in said.values()):
      raise ValueError(
        "loss 'confidence' needs a fusion that predicts one per view, mm_dynamics or "
        'learned_confidence; set loss.confidence=0.'
      )
    errors = {}
    for name, logits in outputs.unimodal.items():
      target = task.true_probability(logits, batch)
      if detach:
        target = jax.lax.stop_gradient(target)
      errors[name] = where_present(outputs, name, measure(said[name] - target))
    return weighted_mean(weighted_sum(errors, factors), task.weights(batch))

  return stateless(loss)
