"""Conditional execution of a chain that each example leaves at an exit of its own.

Two streams go through the same stages. The main one is every example's; the one
beside it ends for an example at its exit, path k being the exit behind stage k. All
exits run the same code on the main stream, so a program that branches over whole
paths would hold it once per exit, and group a batch's main stream for nothing. Here
the conditional is about the second stream of one stage:

- `switch` runs it or not: for a single example.
- `ladder` sorts the examples once by exit, the last first, so that those whose second
  stream goes on are the first rows at every stage; see `jdyn.ops.dispatch.prefix`.
- `buckets` does the same from the host, with a program per stage and sub-batch size
  and no conditional in it.
- `each` decides for the batch, and runs the stages by `switch` for example by example.
- `dense` runs everything and selects.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdyn.ops import dispatch
from jdyn.ops.batch_source import Inputs, PyTree, take
from jdyn.ops.dispatcher import Dispatcher
from jdyn.ops.processor import jit_for_inference
from jdyn.ops.side_by_side import side_by_side

Route = Callable[
  [PyTree, Inputs, PyTree], tuple[jax.Array, PyTree, tuple[PyTree, PyTree]]
]
Head = Callable[[PyTree, Sequence[PyTree]], PyTree]


class Stage(NamedTuple):
  """One stage of both streams.

  `main` is `(variables, x) -> x`, of all examples. `join` is `(variables, x, y) ->
  (x, y)`, of those whose second stream goes on: runs it, and lets the main one, which
  `main` returned, take it in. It keeps the shapes and dtypes of x.
  """

  main: Callable[[PyTree, PyTree], PyTree]
  join: Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]


class StageDispatcher(Dispatcher):
  """Runs a route and a chain of stages, of each example only what its exit needs.

  Args:
    route: `(variables, inputs, extra) -> (chosen i32[B], shared, (x, y))`: the exit,
      what is returned, and both streams in front of the first stage.
    stages: K - 1 of them.
    head: `(variables, [x behind each stage]) -> outputs`.
  """

  def __init__(self, route: Route, stages: Sequence[Stage], head: Head):
    self._route, self._stages, self._head = route, tuple(stages), head
    super().__init__(len(stages) + 1)
    self._route_program = jit_for_inference(self._routed)
    self._main_programs = [jit_for_inference(stage.main) for stage in stages]
    self._join_programs = [
      jit_for_inference(partial(_join_first, stage.join), static_argnums=0)
      for stage in stages
    ]
    self._take_program = jax.jit(take)
    self._head_program = jit_for_inference(self._ended)
    self._row_program = jit_for_inference(self._of_row)

  def _routed(self, variables, inputs, extra, forced):
    chosen, shared, streams = self._route(variables, inputs, extra)
    return self._settled(chosen, forced), shared, streams

  def _ended(self, variables, found, order):
    """Outputs of main streams whose rows are in this order."""
    back = None if order is None else jnp.argsort(order)
    return self._head(variables, take(found, back))

  def _walk(self, streams, main, join):
    """The main stream behind each stage; `main` and `join` are told which it is."""
    (x, y), found = streams, []
    for index in range(len(self._stages)):
      x, y = join(index, main(index, x), y)
      found.append(x)
    return found

  def _traced(self, policy, variables, inputs, extra, forced):
    chosen, shared, streams = self._routed(variables, inputs, extra, forced)
    return chosen, shared, self._staged(policy, variables, streams, chosen)

  def _staged(self, policy, variables, streams, chosen):
    """The outputs of streams that leave at the chosen exits."""
    size = chosen.shape[0]
    if policy == 'switch' and size > 1:
      raise ValueError(f'switch takes one example, not {size}: use ladder (or dense).')
    order = None
    if policy == 'ladder':
      order = jnp.argsort(chosen, stable=True, descending=True)

    def main(index, x):
      return self._stages[index].main(variables, x)

    def join(index, x, y):
      stage, goes_on = self._stages[index], chosen > index
      if policy == 'dense':
        return _join_all(stage.join, variables, goes_on, x, y)
      run = partial(dispatch.prefix, goes_on.sum(), rungs=eighths(size))
      return _join_some(run, stage.join, variables, x, y)

    found = self._walk(take(streams, order), main, join)
    return self._ended(variables, found, order)

  def _of_row(self, variables, streams, chosen, row):
    streams, chosen = take((streams, chosen), row[None])
    return self._staged('switch', variables, streams, chosen)

  def _each(self, variables, source, extra, forced):
    chosen, shared, streams = self._route_program(
      variables, source.hold(None), extra, forced
    )

    def run(row):
      return self._row_program(variables, streams, chosen, np.int32(row))

    return chosen, shared, side_by_side(run, source.size)

  def _buckets(self, variables, source, extra, forced):
    chosen, shared, streams = self._route_program(
      variables, source.hold(None), extra, forced
    )
    on_host = np.asarray(chosen)
    order = np.argsort(-on_host, kind='stable')

    def main(index, x):
      return self._main_programs[index](variables, x)

    def join(index, x, y):
      count = np.count_nonzero(on_host > index)
      if not count:
        return x, y
      rows = dispatch.smallest_rung(count, eighths(source.size))
      return self._join_programs[index](rows, np.int32(count), variables, x, y)

    found = self._walk(self._take_program(streams, order), main, join)
    return chosen, shared, self._head_program(variables, found, order)


def eighths(size: int) -> tuple[int, ...]:
  """Eighths of a batch: a program holds each second stream up to eight times.

  Of the second stream's rows a sixteenth of the batch is run for nothing on average,
  and finer steps for few examples would not pay: all have the main stream to run.
  """
  return tuple(sorted({-(-size * eighth // 8) for eighth in range(1, 9)}))


def _join_all(join, variables, goes_on, x, y):
  """All rows join, and those whose second stream has ended keep what they had."""
  joined, y = join(variables, x, y)

  def select(new, old):
    return jnp.where(goes_on.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)

  return jax.tree.map(select, joined, x), y


def _join_some(run, join, variables, x, y):
  """`run` is `prefix` or `first` of `jdyn.ops.dispatch`, and how many rows go on."""

  def path(streams):
    return join(variables, *streams)

  def otherwise(streams):
    x, _ = streams
    return x, jax.tree.map(jnp.zeros_like, jax.eval_shape(path, streams)[1])

  return run(operands=(x, y), path=path, otherwise=otherwise)


def _join_first(join, rows, count, variables, x, y):
  return _join_some(partial(dispatch.first, rows, count), join, variables, x, y)
