"""Run each path only on the examples that chose it, inside one program.

DynMM's released code runs every expert on every example and multiplies by a one-hot
weight; the saving is a table look-up. Here an expert that was not chosen does not
run. All functions take the chosen path of each example and one function per path,
and return what a loop over the examples would:

- `dense` runs everything and selects: the comparison, and right where paths are
  cheap.
- `switch` runs one branch: for a single example.
- `ladder` sorts the examples by path and runs each path on the smallest of a few
  static sub-batch sizes that holds its examples: for batches.

Where paths are the ends of one chain, `prefix` runs a link of it on the examples that
go on, which stand first once they are sorted by how far they go.

They are traced: they work under `jax.jit`, inside `jax.shard_map` on the rows of one
device, and in `jax.export`. Operands and outputs are any pytrees whose leaves have
the batch as leading axis; all paths return the same structure, shapes and dtypes,
and treat the rows of a batch independently. A path number outside `0..K-1` is
clamped to it, as `lax.switch` does.

They serve inference. Training wants the gradient of every path (straight-through
gates), so it runs them all; a gradient through these functions is not promised.

Never `vmap` a conditional: `vmap(lax.cond)` becomes a select, which runs every
branch and copies the weights once per example. `switch` and `ladder` refuse a
batched choice.
"""

import bisect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

PyTree = Any
Path = Callable[[PyTree], PyTree]


def dense(chosen: jax.Array, operands: PyTree, paths: Sequence[Path]) -> PyTree:
  """Every path on every example, then the chosen outputs.

  Args:
    chosen: `i32[B]`, the path of each example.
    operands: pytree with leaves `[B, ...]`, given to the paths.
    paths: K functions of operands.

  Raises:
    ValueError: if the paths' outputs differ in structure, shape or dtype, or a leaf
      is not `[B, ...]`.
  """
  chosen = _clamped(chosen, paths)
  _output_specs(chosen.shape[0], operands, paths)

  def select(*leaves: jax.Array) -> jax.Array:
    which = chosen.reshape((-1,) + (1,) * (leaves[0].ndim - 1))
    return lax.select_n(jnp.broadcast_to(which, leaves[0].shape), *leaves)

  return jax.tree.map(select, *(path(operands) for path in paths))


def switch(chosen: jax.Array, operands: PyTree, paths: Sequence[Path]) -> PyTree:
  """The chosen path of a single example; the other paths do not run.

  Args:
    chosen: `i32[1]`.
    operands: pytree with leaves `[1, ...]`.
    paths: K functions of operands.

  Raises:
    ValueError: if B is not 1, under `vmap` of `chosen`, and as `dense`.
  """
  if chosen.shape != (1,):
    raise ValueError(
      f'switch takes one example, chosen has shape {chosen.shape}: use ladder (or'
      ' dense) for a batch.'
    )
  chosen = _not_batched(_clamped(chosen, paths))
  _output_specs(1, operands, paths)
  return lax.switch(chosen[0], list(paths), operands)


def ladder(
  chosen: jax.Array,
  operands: PyTree,
  paths: Sequence[Path],
  rungs: Sequence[int] | None = None,
) -> PyTree:
  """Each path on the smallest static sub-batch that holds its examples.

  A stable sort by path makes the examples of a path one run of the sorted order. A
  `lax.switch` over the rungs gathers the run, filled up with whatever follows it,
  and runs the path on that; a path without examples does not run. No example is
  dropped, no shape depends on the data and the host is not asked. The program holds
  one copy of each path's code, not of its weights, per rung: compile time grows with
  the number of rungs.

  Args:
    chosen: `i32[B]`.
    operands: pytree with leaves `[B, ...]`.
    paths: K functions of operands.
    rungs: increasing sub-batch sizes, the last one B; None takes `default_rungs`.

  Raises:
    ValueError: if `rungs` does not increase up to B, under `vmap` of `chosen`, and
      as `dense`.
  """
  size = chosen.shape[0]
  rungs = _checked_rungs(size, rungs)
  chosen = _not_batched(_clamped(chosen, paths))
  specs = _output_specs(size, operands, paths)
  sizes = (0, *rungs)
  # A run that just misses a rung reaches this far beyond its last example.
  spare = max(high - low for low, high in zip(sizes, rungs, strict=False)) - 1

  order = jnp.argsort(chosen, stable=True)
  counts = jnp.bincount(chosen, length=len(paths))
  starts = jnp.cumsum(counts) - counts
  window = jnp.concatenate([order, jnp.zeros((spare,), order.dtype)])
  outputs = jax.tree.map(
    lambda leaf: jnp.zeros((size + spare, *leaf.shape[1:]), leaf.dtype), specs
  )
  for path, start, count in zip(paths, starts, counts, strict=True):
    branches = [_rung(path, rows, size) for rows in sizes]
    # Paths write in the sorted order, one after another: what a path computed beyond
    # its own examples lies under the examples of later paths, and is overwritten.
    outputs = lax.switch(
      jnp.searchsorted(jnp.asarray(sizes), count),
      branches,
      operands,
      window,
      start,
      outputs,
    )
  position = jnp.zeros_like(order).at[order].set(jnp.arange(size, dtype=order.dtype))
  return _take(outputs, position)


def prefix(
  count: jax.Array,
  operands: PyTree,
  path: Path,
  otherwise: Path,
  rungs: Sequence[int] | None = None,
) -> PyTree:
  """A path on the first examples, on the smallest static sub-batch that holds them.

  It does not run where there are none. As in `ladder` nothing is dropped, no shape
  depends on the data, and the program holds one copy of the path's code per rung.

  Args:
    count: `i32[]`, how many examples take the path.
    operands: pytree with leaves `[B, ...]`.
    path: a function of operands.
    otherwise: the same for the examples from `count` on; it should cost next to
      nothing, as it is computed for all.
    rungs: as in `ladder`.

  Raises:
    ValueError: if the outputs of the two differ, under `vmap` of `count`, or as
      `ladder`.
  """
  size = jax.tree.leaves(operands)[0].shape[0]
  rungs = _checked_rungs(size, rungs)
  _output_specs(size, operands, [path, otherwise])
  sizes = (0, *rungs)
  return lax.switch(
    jnp.searchsorted(jnp.asarray(sizes), _not_batched(count)),
    [partial(first, rows, path=path, otherwise=otherwise) for rows in sizes],
    count,
    operands,
  )


def first(
  rows: int, count: jax.Array, operands: PyTree, path: Path, otherwise: Path
) -> PyTree:
  """`prefix` on one sub-batch: so many `rows`, of which `count` take the path."""
  others = otherwise(operands)
  if rows == 0:
    return others
  outputs = path(jax.tree.map(lambda leaf: leaf[:rows], operands))

  def put(old, new):
    ours = (jnp.arange(rows) < count).reshape((-1,) + (1,) * (new.ndim - 1))
    new = jnp.where(ours, new, old[:rows])
    return lax.dynamic_update_slice_in_dim(old, new, 0, 0)

  return jax.tree.map(put, others, outputs)


def default_rungs(size: int) -> tuple[int, ...]:
  """Sub-batch sizes for a batch of `size`: 1, 2, 3, 4, 6, 8, 12, ... and eighths.

  Below a quarter of the batch these are the powers of two and the numbers midway
  between them, from there on the multiples of an eighth. Averaged over the counts
  1 to 128 they run 12 % more rows than are needed (powers of two alone: 36 %), for
  twice the compile time: 16 sizes at a batch of 128, 18 at 256.
  """
  rungs = {-(-size * eighth // 8) for eighth in range(2, 9)}
  power = 1
  while power < size / 4:
    rungs |= {power, power + power // 2}
    power *= 2
  return tuple(sorted(rungs))


def smallest_rung(rows: int, rungs: Sequence[int]) -> int:
  """The smallest of `rungs` that holds so many rows."""
  return rungs[bisect.bisect_left(rungs, rows)]


def _rung(path: Path, rows: int, size: int) -> Callable[..., PyTree]:
  """The branch that runs `path` on `rows` examples of the sorted order."""

  def run(operands, window, start, outputs):
    if rows == 0:
      return outputs
    taken = lax.dynamic_slice(window, (start,), (rows,))
    if rows == size:
      # Everything runs anyway: outputs are moved, and the larger inputs are not.
      values = _take(path(operands), taken)
    else:
      values = path(_take(operands, taken))
    return jax.tree.map(
      lambda old, new: lax.dynamic_update_slice_in_dim(old, new, start, 0),
      outputs,
      values,
    )

  return run


def _checked_rungs(size: int, rungs: Sequence[int] | None) -> tuple[int, ...]:
  rungs = default_rungs(size) if rungs is None else tuple(rungs)
  if not rungs or rungs[-1] != size or list(rungs) != sorted({*rungs} - {0}):
    raise ValueError(
      f'rungs={rungs}: give sub-batch sizes that increase from at least 1 to the'
      f' batch size, {size}.'
    )
  return rungs


def _take(tree: PyTree, rows: jax.Array) -> PyTree:
  return jax.tree.map(lambda leaf: leaf[rows], tree)


def _clamped(chosen: jax.Array, paths: Sequence[Path]) -> jax.Array:
  if not paths:
    raise ValueError('paths is empty: give one function per path.')
  return jnp.clip(chosen, 0, len(paths) - 1).astype(jnp.int32)


def _output_specs(size: int, operands: PyTree, paths: Sequence[Path]) -> PyTree:
  """Shapes and dtypes of one path's outputs, after checking that all agree."""
  specs = [
    jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
      jax.eval_shape(path, operands),
    )
    for path in paths
  ]
  for number, spec in enumerate(specs):
    if spec != specs[0]:
      raise ValueError(
        f'path {number} returns {spec}, path 0 returns {specs[0]}: all paths must'
        ' return the same structure, shapes and dtypes.'
      )
  for leaf in jax.tree.leaves(specs[0]):
    if leaf.shape[:1] != (size,):
      raise ValueError(
        f'a path returns an array of shape {leaf.shape} for {size} examples: the'
        ' leading axis must be the batch.'
      )
  return specs[0]


@jax.custom_batching.custom_vmap
def _not_batched(chosen: jax.Array) -> jax.Array:
  return chosen


@_not_batched.def_vmap
def _refuse(axis_size, in_batched, chosen):
  raise ValueError(
    f'dispatch under vmap over {axis_size} choices: the conditional would become a'
    ' select that runs every path and copies the weights. Call it on the whole batch,'
    ' loop with lax.map, or use dense.'
  )
