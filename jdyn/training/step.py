"""The one train step and the one evaluation step, as pure functions."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jdyn.losses.term import LossTerm
from jdyn.ops.presence import is_mask, lose
from jdyn.ops.random import named_keys
from jdyn.training.state import TrainState
from jdyn.typing import Batch, Outputs

RNGS = ('dropout', 'gate', 'probe')
_MISSING = 'missing'


def cast(tree: Any, dtype) -> Any:
  """Casts the floating leaves of a tree."""
  return jax.tree.map(
    lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
  )


def weight_key(term: str) -> str:
  """The name of a term's weight among the `hparams`."""
  return f'weight_{term}'


def objective(
  params,
  state: TrainState,
  batch: Batch,
  *,
  model: nn.Module,
  terms: Mapping[str, LossTerm],
  hparams: Mapping[str, jax.Array],
  axis_name: str | None = None,
  dtype=jnp.float32,
  missing_rate: float = 0.0,
) -> tuple[jax.Array, tuple[Any, Any, Any]]:
  """This device's share of the training objective.

  Totals are of this device, counts of all, so shares add up to the objective.

  Returns:
    The share, and (outputs, collections, memory), the last two after the step.
  """
  key = jax.random.fold_in(jax.random.key(state.seed), state.step)
  inputs, keys = batch['inputs'], named_keys(key, (*RNGS, _MISSING))
  lost = keys.pop(_MISSING)
  if missing_rate:
    names = [name for name in inputs if not is_mask(name)]
    inputs = lose(inputs, names, missing_rate, lost, axis_name)
  outputs, collections = model.apply(
    {'params': cast(params, dtype), **state.collections},
    cast(inputs, dtype),
    train=True,
    hparams=hparams,
    rngs=keys,
    mutable=list(state.collections),
  )
  outputs = cast(outputs, jnp.float32)
  memory, share = {}, jnp.zeros(())
  for name, term in sorted(terms.items()):
    mean, memory[name] = term.apply(
      outputs, batch, hparams, state.memory[name], axis_name
    )
    count = _psum(mean.count, axis_name)
    share += hparams[weight_key(name)] * mean.total / jnp.where(count > 0, count, 1)
  return share, (outputs, collections, memory)


def train_step(
  state: TrainState,
  batch: Batch,
  *,
  model: nn.Module,
  tx: optax.GradientTransformation,
  terms: Mapping[str, LossTerm],
  schedules: Mapping[str, optax.Schedule],
  axis_name: str | None = None,
  dtype=jnp.float32,
  missing_rate: float = 0.0,
) -> tuple[TrainState, Mapping[str, jax.Array]]:
  """One update.

  Args:
    state: of one member.
    batch: this device's rows.
    model: any of `MODELS`.
    tx: the optimiser.
    terms: the objective, by name.
    schedules: what varies by step, by name: temperatures and the terms' weights.
    axis_name: the data axis under `pmap` or `shard_map`; None on one device.
    dtype: of the computation; parameters and losses stay float32.
    missing_rate: probability that an example loses a modality for this step.

  Returns:
    The next state, and `loss` and `grad_norm`, and per path its mean weight.
  """
  hparams = {name: schedule(state.step) for name, schedule in schedules.items()}
  (share, (outputs, collections, memory)), grads = jax.value_and_grad(
    objective, has_aux=True
  )(
    state.params,
    state,
    batch,
    model=model,
    terms=terms,
    hparams=hparams,
    axis_name=axis_name,
    dtype=dtype,
    missing_rate=missing_rate,
  )
  mask = batch['mask']
  usage = {name: jnp.sum(weight * mask) for name, weight in outputs.weights.items()}
  loss, grads, usage, count = _psum((share, grads, usage, jnp.sum(mask)), axis_name)

  grad_norm = optax.tree.norm(grads)
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  updated = TrainState(
    step=state.step + 1,
    seed=state.seed,
    variant=state.variant,
    params=optax.apply_updates(state.params, updates),
    collections=cast(dict(collections), jnp.float32),
    opt_state=opt_state,
    memory=memory,
    halted=state.halted,
  )
  # A bad step leaves everything as it was, so that it can be looked at afterwards.
  halted = state.halted | ~(jnp.isfinite(loss) & jnp.isfinite(grad_norm))
  state = jax.tree.map(lambda new, old: jnp.where(halted, old, new), updated, state)
  metrics = {'loss': loss, 'grad_norm': grad_norm}
  metrics |= {f'usage/{name}': total / count for name, total in usage.items()}
  return dataclasses.replace(state, halted=halted), metrics


def eval_step(
  variables: Any,
  batch: Batch,
  *,
  model: nn.Module,
  task,
  terms: Mapping[str, LossTerm],
  hparams: Mapping[str, jax.Array],
  memory: Any,
  axis_name: str | None = None,
) -> tuple[Any, Outputs]:
  """Sums over one batch that merge by addition, and the outputs themselves.

  Args:
    variables: of the model.
    batch: this device's rows, padding masked.
    model: any of `MODELS`.
    task: any of `TASKS`.
    terms: the objective, by name; each that is part of evaluation is summed as a
      `Mean`.
    hparams: at evaluation.
    memory: of the loss terms; read, not changed.
    axis_name: the data axis, as in `train_step`.

  Returns:
    `{'task': sums, 'terms': {name: Mean}, 'usage': {path: sum}, 'count': rows}`
    over all devices, and this device's outputs.
  """
  outputs = model.apply(variables, batch['inputs'], train=False, hparams=hparams)
  mask = batch['mask']
  sums = {
    'task': task.sums(outputs, batch),
    'terms': {
      name: term.apply(outputs, batch, hparams, memory[name], axis_name)[0]
      for name, term in sorted(terms.items())
      if term.in_evaluation
    },
    'usage': {name: jnp.sum(w * mask) for name, w in outputs.weights.items()},
    'count': jnp.sum(mask),
  }
  return _psum(sums, axis_name), outputs


def _psum(tree, axis_name):
  return tree if axis_name is None else jax.lax.psum(tree, axis_name)
