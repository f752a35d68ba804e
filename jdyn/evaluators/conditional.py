"""A gated model that computes only the path it chooses."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jdyn.evaluators.budget import spend
from jdyn.models.exits import Exits
from jdyn.models.gated_mixture import GatedMixture
from jdyn.models.input_names import input_names, route_names
from jdyn.models.local_gates import LocallyGatedStages, over_exits
from jdyn.ops.dispatcher import Dispatcher
from jdyn.ops.local_stage_dispatcher import LocalStage, LocalStageDispatcher
from jdyn.ops.path_dispatcher import PathDispatcher
from jdyn.ops.presence import present_key
from jdyn.ops.stage_dispatcher import Stage, StageDispatcher
from jdyn.typing import Gated


def conditional(
  model: GatedMixture | Exits, costs: np.ndarray, masked: Sequence[str] = ()
) -> Dispatcher:
  """The model's gate as a route, and its experts or exits as the paths.

  To be called with `(variables, hparams)` of the model, and `extra` that is None, for
  the paths that the gate prefers, or `(dial, budget)` for those that a budget in MACs
  allows. What is returned beside the choice are the gate's `gate_logits` and in
  `logits` those of the experts that the gate reads. The outputs are logits
  `[B, ..., C]`. An expert that is a gated mixture itself is computed densely.

  Args:
    model: its parts are used: `route`, and `expert`, or `advance`, `join` and `head`.
      Local gates decide as they go, on what has been computed, and cannot be told a
      budget; what was not asked counts in `gate_logits` as undecided.
    costs: `[K]` MACs of the paths, as `path_costs` gives them.
    masked: modalities of which the inputs hold a mask `present/<modality>`.
  """
  if isinstance(model, LocallyGatedStages) and model.policy == 'learned':
    return _over_local_gates(model)
  if isinstance(model, Exits):  # They need every modality.
    return _over_stages(model, costs)
  return _over_experts(model, costs, masked)


def path_costs(model: GatedMixture | Exits, path_macs: Mapping[str, int]) -> np.ndarray:
  """Costs `[K]` in the order of the gate's outputs."""
  return np.array([path_macs[path] for path in model.paths], np.float64)


def _choose(logits: jax.Array, costs: np.ndarray, extra) -> jax.Array:
  if extra is None:
    return jnp.argmax(logits, axis=-1)
  dial, budget = extra
  return spend(dial, logits, costs, budget)[0]


def _over_experts(
  model: GatedMixture, costs: np.ndarray, masked: Sequence[str]
) -> PathDispatcher:
  def with_masks(names):
    return [*names, *(present_key(name) for name in names if name in masked)]

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
    route_reads=with_masks(route_names(model)),
    path_reads=[with_masks(_reads(model, path)) for path in model.paths],
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


def _over_stages(model: Exits, costs: np.ndarray) -> StageDispatcher:
  def route(variables, inputs, extra):
    variables, hparams = variables
    gated, maps = model.apply(
      variables, inputs, train=False, hparams=hparams, method='route'
    )
    chosen = _choose(gated.logits, costs, extra)
    return chosen, {'gate_logits': gated.logits, 'logits': {}}, maps

  part = _parts(model)
  head = part('head')
  return StageDispatcher(
    route,
    [
      Stage(main=part('advance', stage), join=part('join', stage))
      for stage in range(1, len(model.paths))
    ],
    lambda variables, maps: head(variables, maps).logits,
  )


def _over_local_gates(model: LocallyGatedStages) -> LocalStageDispatcher:
  def start(variables, inputs, extra):
    if extra is not None:
      raise ValueError(
        'budget: local gates decide stage by stage, before it is known what later '
        'ones would say; leave it out, or train with a higher loss.budget.'
      )
    return part('stem')(variables, inputs)

  def ask(stage):
    def run(variables, *maps):
      variables, hparams = variables
      gated = model.apply(
        variables, stage, maps, train=False, hparams=hparams, method='decide'
      )
      return gated.weights[:, 1] > 0, gated.logits

    return run

  def share(logits):
    told = [Gated(weights=each, logits=each) for each in logits]
    return {'gate_logits': over_exits(told).logits, 'logits': {}}

  part = _parts(model)
  head = part('head')
  return LocalStageDispatcher(
    start,
    [
      LocalStage(ask(stage), part('advance', stage), part('join', stage))
      for stage in range(1, len(model.paths))
    ],
    share,
    lambda variables, maps: head(variables, maps).logits,
  )


def _parts(model: Exits):
  """Methods of a model, as functions of variables and maps."""

  def part(method, *args):
    def run(variables, *maps):
      variables, _ = variables
      return model.apply(variables, *args, *maps, train=False, method=method)

    return run

  return part
