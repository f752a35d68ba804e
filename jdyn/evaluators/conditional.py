"""A gated model that computes only the path it chooses."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from jdyn.evaluators.budget import spend
from jdyn.models.gated_mixture import GatedMixture
from jdyn.models.input_names import input_names, route_names
from jdyn.ops.dispatcher import Dispatcher


def conditional(model: GatedMixture, costs: np.ndarray) -> Dispatcher:
  """The model's gate as a route, and its experts as the paths.

  To be called with `(variables, hparams)` of the model, and `extra` that is None, for
  the paths that the gate prefers, or `(dial, budget)` for those that a budget in MACs
  allows. What is shared with the paths, and returned, are the gate's logits and those
  of the experts that the gate reads. The outputs are logits `[B, ..., C]`. An expert
  that is a gated mixture itself is computed densely.

  Args:
    model: its `route` and `expert` are used.
    costs: `[K]` MACs of the paths, as `path_costs` gives them.
  """

  def route(variables, inputs, extra):
    variables, hparams = variables
    gated, known = model.apply(
      variables, inputs, train=False, hparams=hparams, method='route'
    )
    if extra is None:
      chosen = jnp.argmax(gated.logits, axis=-1)
    else:
      dial, budget = extra
      chosen, _ = spend(dial, gated.logits, costs, budget)
    logits = {path: outputs.logits for path, outputs in known.items()}
    return chosen, {'gate_logits': gated.logits, 'logits': logits}

  return Dispatcher(
    route,
    [_path(model, path) for path in model.paths],
    route_reads=route_names(model),
    path_reads=[_reads(model, path) for path in model.paths],
  )


def path_costs(model: GatedMixture, path_macs: Mapping[str, int]) -> np.ndarray:
  """Costs `[K]` in the order of the gate's outputs."""
  return np.array([path_macs[path] for path in model.paths], np.float64)


def _path(model: GatedMixture, path: str):
  def run(variables, inputs, shared):
    if path in model.gate_experts:
      return shared['logits'][path]
    variables, hparams = variables
    outputs = model.apply(
      variables, path, inputs, train=False, hparams=hparams, method='expert'
    )
    return outputs.logits

  return run


def _reads(model: GatedMixture, path: str) -> tuple[str, ...]:
  """What a path reads beyond what the gate has computed."""
  return () if path in model.gate_experts else input_names(model.experts[path])
