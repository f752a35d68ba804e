"""Conditional execution of a chain whose every link is decided in front of it.

As `jdyn.ops.stage_dispatcher`, but who goes on into a stage is known no sooner than
the streams in front of it. So the examples are sorted again at each stage, those who
go on first, and the gate of the next is asked about them alone.
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
from jdyn.ops.stage_dispatcher import Head, eighths

Start = Callable[[PyTree, Inputs, PyTree], tuple[PyTree, PyTree]]


class LocalStage(NamedTuple):
  """One stage of both streams, and its gate.

  `ask` is `(variables, x, y) -> (goes_on bool[B], said)`; `main` and `join` are those
  of `jdyn.ops.stage_dispatcher.Stage`.
  """

  ask: Callable[[PyTree, PyTree, PyTree], tuple[jax.Array, PyTree]]
  main: Callable[[PyTree, PyTree], PyTree]
  join: Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]


class LocalStageDispatcher(Dispatcher):
  """Runs a chain of stages and their gates, of each example only what it needs.

  Args:
    start: `(variables, inputs, extra) -> (x, y)`: both streams.
    stages: K - 1 of them.
    share: what is returned of what the gates said, a list; of those that were not
      asked about an example it is 0.
    head: `(variables, [x behind each stage]) -> outputs`.
  """

  def __init__(
    self,
    start: Start,
    stages: Sequence[LocalStage],
    share: Callable[[list[PyTree]], PyTree],
    head: Head,
  ):
    self._start, self._stages = start, tuple(stages)
    self._share, self._head = share, head
    super().__init__(len(stages) + 1)
    self._start_program, self._take_program = jit_for_inference(start), jax.jit(take)
    self._main_programs = [jit_for_inference(stage.main) for stage in stages]
    self._first_programs = {
      name: [
        jit_for_inference(
          partial(_first, getattr(stage, name), other), static_argnums=0
        )
        for stage in stages
      ]
      for name, other in _OTHERWISE.items()
    }
    self._end_program = jit_for_inference(self._ended)
    self._row_program = jit_for_inference(self._of_row)

  def _walk(self, streams, forced, xp, run, main, move):
    """What `_ended` takes, each with the rows that it is of.

    Args:
      streams: in front of the first stage.
      forced: as in a call.
      xp: NumPy, where the host decides, or JAX's.
      run: `(part, index, count, streams)`, a stage's `ask` or `join` on first rows.
      main: `(index, x)`.
      move: takes rows of a tree.
    """
    size = forced.shape[0]
    rows, exits = xp.arange(size), xp.zeros(size, np.int32)
    said, found = [], []
    for index in range(len(self._stages)):
      # Whose second stream has come this far are the first; the others go nowhere.
      goes_on, told = run('ask', index, (exits == index).sum(), streams)
      goes_on = xp.where(forced < 0, xp.asarray(goes_on), forced > index)
      said.append((told, rows))
      order = xp.argsort(~goes_on, stable=True)
      rows, forced, exits = rows[order], forced[order], (exits + goes_on)[order]
      x, y = move(streams, order)
      streams = run('join', index, goes_on.sum(), (main(index, x), y))
      found.append((streams[0], rows))
    return said, found, (exits, rows)

  def _ended(self, variables, said, found, exits):
    """The results of a call, in the examples' own order."""

    def unsorted(moved):
      tree, rows = moved
      return take(tree, jnp.argsort(rows))

    shared = self._share([unsorted(each) for each in said])
    outputs = self._head(variables, [unsorted(each) for each in found])
    return unsorted(exits).astype(jnp.int32), shared, outputs

  def _traced(self, policy, variables, inputs, extra, forced):
    return self._staged(
      policy, variables, self._start(variables, inputs, extra), forced
    )

  def _staged(self, policy, variables, streams, forced):
    """The results of a call, from the streams in front of the first stage on."""
    size = jax.tree.leaves(streams)[0].shape[0]
    if policy == 'switch' and size > 1:
      raise ValueError(f'switch takes one example, not {size}: use ladder (or dense).')
    forced = jnp.full(size, -1) if forced is None else jnp.asarray(forced)
    some = partial(dispatch.prefix, rungs=eighths(size))
    if policy == 'dense':
      some = partial(dispatch.first, size)

    def run(name, index, count, streams):
      part = partial(getattr(self._stages[index], name), variables)
      return _some(some, part, _OTHERWISE[name], count, streams)

    def main(index, x):
      return self._stages[index].main(variables, x)

    walked = self._walk(streams, forced, jnp, run, main, take)
    return self._ended(variables, *walked)

  def _of_row(self, variables, streams, forced, row):
    streams, forced = take((streams, forced), row[None])
    return self._staged('switch', variables, streams, forced)

  def _each(self, variables, source, extra, forced):
    streams = self._start_program(variables, source.hold(None), extra)

    def run(row):
      return self._row_program(variables, streams, forced, np.int32(row))

    return side_by_side(run, source.size)

  def _buckets(self, variables, source, extra, forced):
    streams = self._start_program(variables, source.hold(None), extra)
    rungs = eighths(source.size)

    def run(name, index, count, streams):
      rows = dispatch.smallest_rung(count, rungs) if count else 0
      program = self._first_programs[name][index]
      return program(rows, np.int32(count), variables, streams)

    def main(index, x):
      return self._main_programs[index](variables, x)

    walked = self._walk(streams, np.asarray(forced), np, run, main, self._take_program)
    return self._end_program(variables, *walked)


def _zeros(specs, streams):
  """What was not asked has nothing said."""
  del streams
  return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), specs)


def _ended(specs, streams):
  """The main stream goes on as it is; nothing is left of the other."""
  return streams[0], _zeros(specs[1], streams)


_OTHERWISE = {'ask': _zeros, 'join': _ended}


def _some(some, part, otherwise, count, streams):
  """A part of a stage on the first `count` examples, as `some` runs it."""

  def path(streams):
    return part(*streams)

  def other(streams):
    return otherwise(jax.eval_shape(path, streams), streams)

  return some(count, streams, path, other)


def _first(part, otherwise, rows, count, variables, streams):
  some = partial(dispatch.first, rows)
  return _some(some, partial(part, variables), otherwise, count, streams)
