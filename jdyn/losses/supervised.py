"""The task's own loss, on the prediction or on every expert."""

from jdyn.losses.term import LossTerm, stateless
from jdyn.typing import weighted_mean


def supervised(task) -> LossTerm:
  """The task's loss of the model's logits."""

  def loss(outputs, batch, hparams, axis_name):
    del hparams, axis_name
    return weighted_mean(task.loss(outputs.logits, batch), task.weights(batch))

  return stateless(loss)


def per_expert(task) -> LossTerm:
  """The task's loss of each expert's own logits, summed over the experts."""

  def loss(outputs, batch, hparams, axis_name):
    del hparams, axis_name
    if not outputs.unimodal:
      raise ValueError(
        "loss 'per_expert' needs a model with experts; set loss.per_expert=0."
      )
    values = sum(
      task.loss(outputs.unimodal[name], batch) for name in sorted(outputs.unimodal)
    )
    return weighted_mean(values, task.weights(batch))

  return stateless(loss)
