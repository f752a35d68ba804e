"""A penalty on the Jacobian of equilibrium models' maps (Bai et al., ICML 2021)."""

from jdyn.losses.term import LossTerm, stateless
from jdyn.typing import weighted_mean


def jacobian() -> LossTerm:
  """The mean squared norm of the maps' Jacobians at their fixed points.

  Of all equilibrium fusions in the model, as they estimate it in training; 0 in
  evaluation.
  """

  def loss(outputs, batch, hparams, axis_name):
    del hparams, axis_name
    found = [
      value
      for name, value in sorted(outputs.aux.items())
      if name.rpartition('/')[-1] == 'jacobian'
    ]
    if not found:
      raise ValueError(
        "loss 'jacobian' needs an equilibrium fusion with jacobian_probes > 0; set "
        'that, or loss.jacobian=0.'
      )
    return weighted_mean(sum(found), batch['mask'])

  return stateless(loss)
