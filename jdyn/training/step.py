"""The one train step and the one evaluation step, as pure functions."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jdyn.build import RNGS
from jdyn.losses.term import LossTerm
from jdyn.ops.presence import is_mask, lose
from jdyn.ops.random import named_keys
from jdyn.training.state import TrainState
from jdyn.typing import Batch, Outputs

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


class Proposal(NamedTuple):
  """A step as it would be, whether or not its numbers are finite.

  Attributes:
    loss: of the batch.
    grads: of the parameters.
    grad_norm: global.
    updated: the state after it.
    outputs: of the model, of this device's rows.
  """

  loss: jax.Array
  grads: Any
  grad_norm: jax.Array
  updated: TrainState
  outputs: Outputs


def propose(
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
) -> Proposal:
  """One update, not yet judged.

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
  loss, grads = _psum((share, grads), axis_name)
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
  return Proposal(loss, grads, optax.tree.norm(grads), updated, outputs)


def train_step(
  state: TrainState,
  batch: Batch,
  *,
  number: jax.Array | None = None,
  axis_name: str | None = None,
  **options,
) -> tuple[TrainState, Mapping[str, jax.Array]]:
  """One update, unless its numbers are not finite.

  A step is applied only if these are finite: the loss, the norm of the gradient, every
  parameter and value of the optimiser's state that it starts from, and every value of
  the collections and of the losses' memories that it leaves. Otherwise the member halts
  with the state as it was before that step, so that it can be looked at, and every
  further step leaves it so.

  So a value of the state that is not finite halts the very step that finds it there,
  whether or not the step reads it. What an update brings about, as only an absurd
  learning rate does when all of the above is finite, halts the next step. A value of an
  input or a label halts the step if it has any effect there. Without effect is what the
  model does not read, or sets aside by a choice: a modality that `missing_rate` hides,
  the padding of a sequence, a void pixel.

  Args:
    state: of one member.
    batch: this device's rows.
    number: the step that the batch is of; a state at another step stays as it is. None:
      whichever the state is at.
    axis_name: as in `propose`.
    **options: of `propose`.

  Returns:
    The next state, and `loss` and `grad_norm`, per path its mean weight, and `applied`:
    whether the step was.
  """
  made = propose(state, batch, axis_name=axis_name, **options)
  mask, weights = batch['mask'], made.outputs.weights
  usage = {name: jnp.sum(weight * mask) for name, weight in weights.items()}
  usage, count = _psum((usage, jnp.sum(mask)), axis_name)

  due = ~state.halted
  if number is not None:
    due &= state.step == number
  # What is updated is read before and not after: to reduce it first would cost another
  # pass over all parameters and moments, half the time of a step of small batches.
  left = made.updated.collections, made.updated.memory
  finite = all_finite((made.loss, made.grad_norm, state.params, state.opt_state, left))
  applied = due & finite
  after = jax.tree.map(
    lambda new, old: jnp.where(applied, new, old), made.updated, state
  )
  metrics = {'loss': made.loss, 'grad_norm': made.grad_norm, 'applied': applied}
  metrics |= {f'usage/{name}': total / count for name, total in usage.items()}
  return dataclasses.replace(after, halted=state.halted | (due & ~finite)), metrics


def all_finite(tree: Any) -> jax.Array:
  """Whether all floating leaves of a tree are finite: a scalar `bool`."""
  # 0 times what is not finite is NaN. Compilers add faster than they reduce by `and`
  # (XLA on CPU seven times), and leaves of one shape, such as a parameter and its
  # moments, take one pass.
  zeros = {}
  for leaf in jax.tree.leaves(tree):
    if jnp.issubdtype(leaf.dtype, jnp.floating):
      zeros[leaf.shape] = zeros.get(leaf.shape, 0) + leaf * 0
  return sum(map(jnp.sum, zeros.values())) == 0


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
