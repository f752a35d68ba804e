"""The task's own loss, on the prediction or on every expert."""

from collections.abc import Mapping

from jdyn.losses.term import LossTerm, stateless
from jdyn.losses.weighting import weighted_sum, where_present
from jdyn.typing import weighted_mean


def supervised(task) -> LossTerm:
  """The task's loss of the model's logits."""

  def loss(outputs, batch, hparams, axis_name):
    del hparams, axis_name
    return weighted_mean(task.loss(outputs.logits, batch), task.weights(batch))

  return stateless(loss)


def per_expert(task, factors: Mapping[str, float]) -> LossTerm:
  """The task's loss of each expert's own logits, summed over the experts.

  An expert is not judged on examples that lack what it reads.

  Args:
    task: any of `TASKS`.
    factors: of experts that count other than once, by name.
  """

  def loss(outputs, batch, hparams, axis_name):
    del hparams, axis_name
    if not outputs.unimodal:
      raise ValueError(
        "loss 'per_expert' needs a model with experts; set loss.per_expert=0."
      )
    losses = {
      name: where_present(outputs, name, task.loss(logits, batch))
      for name, logits in outputs.unimodal.items()
    }
    return weighted_mean(weighted_sum(losses, factors), task.weights(batch))

  return stateless(loss)
