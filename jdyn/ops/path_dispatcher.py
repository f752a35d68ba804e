"""Conditional execution of paths that have nothing in common: `jdyn.ops.dispatch`."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from jdyn.ops import dispatch
from jdyn.ops.batch_source import Inputs, PyTree, take
from jdyn.ops.dispatcher import Dispatcher
from jdyn.ops.processor import jit_for_inference
from jdyn.ops.side_by_side import side_by_side

Route = Callable[[PyTree, Inputs, PyTree], tuple[jax.Array, PyTree]]
Path = Callable[[PyTree, Inputs, PyTree], PyTree]


class PathDispatcher(Dispatcher):
  """Runs a route, and each path only on the examples that were routed to it.

  With a reader, policies `buckets` and `each` read what the route reads for all rows,
  and for each path only what is still missing and only for its own rows.

  Args:
    route: `(variables, inputs, extra) -> (chosen i32[B], shared)`. `shared` is a
      pytree with leaves `[B, ...]` that the paths may use again and that is
      returned: gate logits, or what a cheap expert already computed.
    paths: K functions `(variables, inputs, shared) -> outputs`; see
      `jdyn.ops.dispatch` for what they must have in common.
    route_reads: names of the inputs that the route is given; None gives all.
    path_reads: the same for each path.

  Raises:
    ValueError: if `paths` is empty or `path_reads` has another length.
  """

  def __init__(
    self,
    route: Route,
    paths: Sequence[Path],
    route_reads: Sequence[str] | None = None,
    path_reads: Sequence[Sequence[str] | None] | None = None,
  ):
    path_reads = (None,) * len(paths) if path_reads is None else tuple(path_reads)
    if not paths or len(path_reads) != len(paths):
      raise ValueError(
        f'{len(paths)} paths and {len(path_reads)} path_reads: give at least one path'
        ' and one entry of path_reads for each.'
      )
    self._route, self._paths = route, tuple(paths)
    self._route_reads, self._path_reads = route_reads, path_reads
    super().__init__(len(paths), _union(route_reads, *path_reads))
    self._route_program = jit_for_inference(self._routed)
    self._path_programs = [jit_for_inference(_on_rows(path)) for path in self._paths]

  def _routed(self, variables, inputs, extra, forced):
    chosen, shared = self._route(variables, inputs, extra)
    return self._settled(chosen, forced), shared

  def _traced(self, policy, variables, inputs, extra, forced):
    chosen, shared = self._routed(
      variables, _pick(inputs, self._route_reads), extra, forced
    )

    def bound(path, reads):
      return lambda rows: path(variables, _pick(rows[0], reads), rows[1])

    paths = map(bound, self._paths, self._path_reads)
    run = getattr(dispatch, policy)
    return chosen, shared, run(chosen, (inputs, shared), list(paths))

  def _buckets(self, variables, source, extra, forced):
    chosen, shared = self._route_program(
      variables, source.hold(self._route_reads), extra, forced
    )
    on_host = np.asarray(chosen)
    groups, launched = [], []
    for number, reads in enumerate(self._path_reads):
      group = np.flatnonzero(on_host == number)
      if not group.size:
        continue
      held = source.held(reads)
      if group.size == source.size:
        # All rows, in their own order: nothing to gather, and None says so.
        rows, read = None, source.read(reads, None)
      else:
        rows, read = _filled((group, source.read(reads, group)), source.size)
      groups.append(group)
      launched.append(self._path_programs[number](variables, held, read, shared, rows))
    # All paths are under way before the first is waited for.
    if len(launched) == 1:
      return chosen, shared, launched[0]
    outputs = jax.tree.map(
      lambda *parts: _scattered(groups, parts), *jax.device_get(launched)
    )
    return chosen, shared, outputs

  def _each(self, variables, source, extra, forced):
    chosen, shared = self._route_program(
      variables, source.hold(self._route_reads), extra, forced
    )
    on_host = np.asarray(chosen)

    def run(row):
      number, rows = on_host[row], np.array([row])
      reads = self._path_reads[number]
      held, read = source.held(reads), source.read(reads, rows)
      return self._path_programs[number](variables, held, read, shared, rows)

    return chosen, shared, side_by_side(run, source.size)


def _on_rows(path: Path) -> Callable[..., PyTree]:
  """The program of one bucket: gathers `rows` of what is on the device."""

  def run(variables, held, read, shared, rows):
    held, shared = take((held, shared), rows)
    return path(variables, held | read, shared)

  return run


def _filled(tree: PyTree, size: int) -> PyTree:
  """NumPy rows repeated up to the next of the static sizes for a batch of `size`."""

  def fill(leaf):
    leaf = np.asarray(leaf)
    spare = dispatch.smallest_rung(len(leaf), dispatch.default_rungs(size)) - len(leaf)
    return np.concatenate([leaf, np.broadcast_to(leaf[:1], (spare, *leaf.shape[1:]))])

  return jax.tree.map(fill, tree)


def _scattered(groups: Sequence[np.ndarray], parts: Sequence[np.ndarray]) -> np.ndarray:
  """The rows of each group back in their places in the batch."""
  size = sum(map(len, groups))
  whole = np.empty((size, *parts[0].shape[1:]), parts[0].dtype)
  for group, part in zip(groups, parts, strict=True):
    whole[group] = part[: len(group)]
  return whole


def _union(*reads: Sequence[str] | None) -> list[str] | None:
  if any(names is None for names in reads):
    return None
  return sorted({name for names in reads for name in names})


def _pick(inputs: Inputs, names: Sequence[str] | None) -> dict[str, PyTree]:
  return dict(inputs) if names is None else {name: inputs[name] for name in names}
