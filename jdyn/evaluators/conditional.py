"""A gated model that computes only the path it chooses."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jdyn.evaluators.budget import spend
from jdyn.models.gated_mixture import GatedMixture
from jdyn.models.gated_stages import GatedStages
from jdyn.models.input_names import input_names, route_names
from jdyn.ops.dispatcher import Dispatcher
from jdyn.ops.path_dispatcher import PathDispatcher
from jdyn.ops.stage_dispatcher import Stage, StageDispatcher


def conditional(model: GatedMixture | GatedStages, costs: np.ndarray) -> Dispatcher:
  """The model's gate as a route, and its experts or exits as the paths.

  To be called with `(variables, hparams)` of the model, and `extra` that is None, for
  the paths that the gate prefers, or `(dial, budget)` for those that a budget in MACs
  allows. What is returned beside the choice are the gate's `gate_logits` and in
  `logits` those of the experts that the gate reads. The outputs are logits
  `[B, ..., C]`. An expert that is a gated mixture itself is computed densely.

  Args:
    model: its parts are used: `route`, and `expert`, or `advance`, `join` and `head`.
    costs: `[K]` MACs of the paths, as `path_costs` gives them.
  """
  build = _over_stages if isinstance(model, GatedStages) else _over_experts
  return build(model, costs)


def path_costs(
  model: GatedMixture | GatedStages, path_macs: Mapping[str, int]
) -> np.ndarray:
  """Costs `[K]` in the order of the gate's outputs."""
  return np.array([path_macs[path] for path in model.paths], np.float64)


def _choose(logits: jax.Array, costs: np.ndarray, extra) -> jax.Array:
  if extra is None:
    return jnp.argmax(logits, axis=-1)
  dial, budget = extra
  return spend(dial, logits, costs, budget)[0]


def _over_experts(model: GatedMixture, costs: np.ndarray) -> PathDispatcher:
  def route(variables, inputs, extra):
    variables, hparams = variables
    gated, known = model.apply(
      variables, inputs, train=False, hparams=hparams, method='route'
    )
    logits = {path: outputs.logits for path, outputs in known.items()}
    chosen = _choose(gated.logits, costs, extra)
    return chosen, {'gate_logits': gated.logits, 'logits': logits}

  return PathDispatcher(
    route,
    [_expert(model, path) for path in model.paths],
    route_reads=route_names(model),
    path_reads=[_reads(model, path) for path in model.paths],
  )


def _expert(model: GatedMixture, path: str):
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


def _over_stages(model: GatedStages, costs: np.ndarray) -> StageDispatcher:
  def route(variables, inputs, extra):
    variables, hparams = variables
    gated, maps = model.apply(
      variables, inputs, train=False, hparams=hparams, method='route'
    )
    chosen = _choose(gated.logits, costs, extra)
    return chosen, {'gate_logits': gated.logits, 'logits': {}}, maps

  def part(method, *args):
    def run(variables, *maps):
      variables, _ = variables
      return model.apply(variables, *args, *maps, train=False, method=method)

    return run

  head = part('head')
  return StageDispatcher(
    route,
    [
      Stage(main=part('advance', stage), join=part('join', stage))
      for stage in range(1, len(model.paths))
    ],
    lambda variables, maps: head(variables, maps).logits,
  )
