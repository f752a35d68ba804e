"""The compiled programs of one stage: start, train for some steps, evaluate.

Every program works on all seeds, and in a sweep on all variants of a stage, at
once: leading axes are `[M, ...]` with one member per seed and variant, `M = S * V`
and variant `v` of seed `s` at `s * V + v`. Examples belong to a seed, so all its
variants share one copy of them. Where there is one seed or one variant, that axis
is dropped inside, so that a single run pays nothing for it.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdyn.build import Stage
from jdyn.data.dataset import Split
from jdyn.data.order import eval_rows
from jdyn.data.pipeline import assemble
from jdyn.losses.term import LossTerm
from jdyn.training.feed import BATCH_AXIS, fits, gather, on_host
from jdyn.training.parallel import Parallel, fetch, replicated
from jdyn.training.state import TrainState, init_state
from jdyn.training.step import eval_step, train_step
from jdyn.typing import Batch, Outputs

MEMBERS = 'members'
"""Says of an argument that its leading axis is that of the members."""


def over_members(
  fn: Callable, in_axes: Sequence[Any], num_seeds: int, num_variants: int
) -> Callable:
  """`fn` of one member -> the function of all.

  Args:
    fn: its results get a leading axis of members.
    in_axes: per argument `MEMBERS`, or for what the variants of a seed share, the
      axis of its seeds as for `jax.vmap`.
    num_seeds: S.
    num_variants: V.
  """
  own = [axis == MEMBERS for axis in in_axes]
  by_seed = [0 if axis == MEMBERS else axis for axis in in_axes]
  if num_variants == 1:
    return _over_seeds(fn, by_seed, num_seeds)
  each = jax.vmap(fn, in_axes=tuple(0 if mine else None for mine in own))
  every = _over_seeds(each, by_seed, num_seeds)

  def members(*args):
    args = [
      jax.tree.map(lambda x: x.reshape(num_seeds, num_variants, *x.shape[1:]), arg)
      if mine
      else arg
      for arg, mine in zip(args, own, strict=True)
    ]
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), every(*args))

  return members


def _over_seeds(fn: Callable, in_axes: Sequence[Any], num_seeds: int) -> Callable:
  """`fn` of one seed -> the function of all; `in_axes` as for `jax.vmap`."""
  if num_seeds > 1:
    return jax.vmap(fn, in_axes=tuple(in_axes))

  def single(*args):
    args = [_take(arg, axis) for arg, axis in zip(args, in_axes, strict=True)]
    return jax.tree.map(lambda x: x[None], fn(*args))

  return single


def _take(arg, axis):
  """Drops the seed axis of a tree; `axis` is a prefix tree, as for `jax.vmap`."""
  if isinstance(axis, Mapping):
    return {key: _take(arg[key], axis[key]) for key in arg}
  if axis is None:
    return arg
  return jax.tree.map(lambda x: jnp.squeeze(x, axis), arg)


def _seed_axes(split: Split, axis: int) -> Mapping[str, int | None]:
  """Per input, where its axis of seeds is, if it has one."""
  return {name: axis if name in split.per_seed else None for name in split.inputs}


class TrainPrograms:
  """What trains one stage.

  Attributes:
    schedules: of the stage.
    start: `(seeds [S]) -> TrainState` with leading axis M.
    call: `(state, data, start, xs) -> (state, metrics [M, steps])`, where `start` is
      the number of the first step of `xs`. A member takes those steps whose number is
      its own, so after one that was left out the same call goes on behind it.
  """

  def __init__(
    self,
    stage: Stage,
    split: Split,
    feed: Any,
    parallel: Parallel,
    num_seeds: int,
    steps_per_epoch: int,
    unroll: int = 1,
  ):
    """Compiles nothing yet.

    Args:
      stage: to be trained.
      split: the training split that `feed` reads.
      feed: makes batches inside the program.
      parallel: how the batch lies on the devices.
      num_seeds: S.
      steps_per_epoch: for the schedules.
      unroll: steps written out in the compiled loop; where a call has no more
        steps than that there is no loop.
    """
    self.schedules = stage.make_schedules(steps_per_epoch)
    tx = stage.make_optimizer(steps_per_epoch)
    example = {
      name: value[:, 0] if name in split.per_seed else value
      for name, value in assemble(split, np.zeros(1, np.int32))['inputs'].items()
    }
    start = partial(
      init_state,
      inputs=example,
      model=stage.trained,
      tx=tx,
      terms=stage.terms,
      hparams=hparams_at(self.schedules, jnp.zeros((), jnp.int32)),
      num_examples=len(split),
    )
    every = partial(over_members, num_seeds=num_seeds, num_variants=stage.num_variants)
    variants = np.tile(np.arange(stage.num_variants, dtype=np.int32), num_seeds)
    starts = every(lambda seed, variant: start(seed, variant=variant), (0, MEMBERS))
    self.start: Callable[[jax.Array], TrainState] = jax.jit(
      lambda seeds: starts(seeds, jnp.asarray(variants))
    )
    step = partial(
      train_step,
      model=stage.trained,
      tx=tx,
      terms=stage.terms,
      axis_name=parallel.axis_name,
      dtype=stage.dtype,
      missing_rate=stage.missing_rate,
    )

    def steps(state, data, start, xs):
      schedules = of_variant(self.schedules, state.variant, stage.num_variants)
      numbers = start + jnp.arange(len(jax.tree.leaves(xs)[0]), dtype=jnp.int32)

      def body(state, x):
        number, x = x
        batch = feed.fetch(data, x)
        return step(state, batch, number=number, schedules=schedules)

      return jax.lax.scan(body, state, (numbers, xs), unroll=unroll)

    data_axes = {'inputs': _seed_axes(split, 1), 'label': None} if feed.data else None
    self.call = parallel.wrap(
      every(steps, (MEMBERS, data_axes, None, 0)),
      in_axes=(replicated, replicated, replicated, BATCH_AXIS),
      out_axes=(replicated, replicated),
      donate=(0,),
    )


def of_variant(
  schedules: Mapping[str, Callable], variant: jax.Array, num_variants: int
) -> Mapping[str, Callable]:
  """The schedules of one variant of a stage that has so many."""
  if num_variants == 1:
    return schedules
  return {
    name: partial(schedule, variant=variant) for name, schedule in schedules.items()
  }


def hparams_at(schedules: Mapping[str, Callable], step: jax.Array) -> Mapping[str, Any]:
  """The value of every schedule at a step."""
  return {name: schedule(step) for name, schedule in schedules.items()}


class Evaluator:
  """Runs a model over a whole split, for all members."""

  def __init__(
    self,
    model: Any,
    split: Split,
    parallel: Parallel,
    num_seeds: int,
    *,
    task: Any,
    terms: Mapping[str, LossTerm],
    batch_size: int,
    device_bytes: int,
    keep: Callable[[Outputs, Batch], Any] | None = None,
    num_variants: int = 1,
  ):
    """Places the split and compiles nothing yet.

    Args:
      model: it decides which inputs `split` must hold.
      split: to be run over, in order.
      parallel: how the batch lies on the devices.
      num_seeds: S.
      task: for the sums.
      terms: of the objective; may be empty.
      batch_size: examples per step.
      device_bytes: a split larger than this is fed from the host.
      keep: also return this of the outputs of every batch's examples.
      num_variants: V.
    """
    self._split, self._keep = split, keep
    self._batches = eval_rows(len(split), batch_size)
    self._own = parallel.own_rows(batch_size)
    self._data = None
    x_axes: Any = None
    data_axes: Any = None
    if fits(split, device_bytes):
      self._data = parallel.put(on_host(split))
      data_axes = {'inputs': _seed_axes(split, 1), 'label': None}
    else:
      x_axes = {'inputs': _seed_axes(split, 2), 'label': None, 'mask': None}
      x_axes['index'] = None

    step = partial(
      eval_step, model=model, task=task, terms=terms, axis_name=parallel.axis_name
    )

    def run(variables, hparams, memory, data, xs):
      def body(_, x):
        batch = x if data is None else gather(split, data, x['index'], x['mask'])
        sums, outputs = step(variables, batch, hparams=hparams, memory=memory)
        kept = keep(outputs, batch) if keep else ()
        return None, (sums, (_finite_rows(outputs.logits), kept))

      _, (sums, outputs) = jax.lax.scan(body, None, xs)
      return jax.tree.map(lambda x: x.sum(0), sums), outputs

    self._run = parallel.wrap(
      over_members(
        run,
        (MEMBERS, MEMBERS, MEMBERS, data_axes, x_axes),
        num_seeds,
        num_variants,
      ),
      in_axes=(replicated, replicated, replicated, replicated, 1),
      out_axes=(replicated, 2),
    )

  def __call__(
    self, variables: Any, hparams: Any, memory: Any
  ) -> tuple[Any, np.ndarray, Any]:
    """Runs the split.

    Args:
      variables: of the model, `[M, ...]`.
      hparams: at evaluation, `[M]`.
      memory: of the loss terms, `[M, ...]`.

    Returns:
      Sums `[M, ...]` (see `eval_step`), which examples have finite logits, `[M, N]`,
      and what `keep` gave, `[M, N, ...]`, or None, as NumPy arrays.
    """
    rows, mask = self._batches
    if self._data is not None:
      plan = {'index': rows[:, self._own], 'mask': mask[:, self._own]}
      sums, outputs = self._run(variables, hparams, memory, self._data, plan)
      outputs = [outputs]
    else:
      sums, outputs = None, []
      for row, weight in zip(rows, mask, strict=True):
        batch = assemble(self._split, row, weight, self._own)
        batch = jax.tree.map(lambda x: x[None], batch)
        part, output = self._run(variables, hparams, memory, None, batch)
        sums = part if sums is None else jax.tree.map(jnp.add, sums, part)
        outputs.append(output)
    finite, kept = self._trim(outputs)
    return jax.tree.map(np.asarray, sums), finite, kept if self._keep else None

  def _trim(self, parts: Sequence[Any]) -> Any:
    """Joins `[M, batches, B, ...]` parts into `[M, N, ...]`, padding dropped."""

    def join(*leaves):
      leaf = np.concatenate([fetch(leaf) for leaf in leaves], axis=1)
      return leaf.reshape(leaf.shape[0], -1, *leaf.shape[3:])[:, : len(self._split)]

    return jax.tree.map(join, *parts)


def _finite_rows(logits: jax.Array) -> jax.Array:
  """Of which examples all logits are finite: `[B, ...]` -> `bool[B]`."""
  return jnp.isfinite(logits).reshape(len(logits), -1).all(axis=1)
