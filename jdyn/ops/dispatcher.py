"""The host's side of conditional execution: compile, group by path, measure.

A `Dispatcher` holds a route and K paths, and runs them under one of `POLICIES`:

- `dense`, `switch`, `ladder`: one program each, see `jdyn.ops.dispatch`.
- `buckets`: the route is one program; the host reads the choice, groups the rows by
  path, fills each group up to one of a few static sizes and runs one program per
  path. What a path alone reads is read and transferred for its own rows only.
- `auto`: the fastest of the policies on this machine, measured once per input shape.
"""

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jdyn.ops import dispatch
from jdyn.ops.timing import interleave

POLICIES = ('auto', 'dense', 'switch', 'ladder', 'buckets')

PyTree = Any
Inputs = Mapping[str, PyTree]
Route = Callable[[PyTree, Inputs, PyTree], tuple[jax.Array, PyTree]]
Path = Callable[[PyTree, Inputs, PyTree], PyTree]

# A policy may lose this share of time against dense at any mix and still be chosen.
_TOLERANCE = 0.02
# Of one measurement: turns of each call, the least seconds of a turn, and the seconds
# after which no further round starts.
_ROUNDS, _LEAST, _BUDGET = 25, 4e-3, 3.0


class Reader(Protocol):
  """Where inputs come from when reading them is itself costly: files, a decoder."""

  size: int
  """Examples in the batch."""

  def read(
    self, names: Sequence[str] | None, rows: np.ndarray | None
  ) -> Mapping[str, PyTree]:
    """NumPy arrays `[len(rows), ...]` of these inputs; None stands for all."""


@dataclass(frozen=True)
class Measured:
  """What `auto` found for one input shape.

  Attributes:
    policy: the one that it uses.
    seconds: {policy: {mix: median seconds of the whole program}}, where a mix is
      `path k` (every example takes path k) or `even`.
    slowdown: {policy: time as a ratio to dense, at the mix where it is greatest}.
      The ratio of a mix is the one that three of four rounds reach: a disturbed
      machine must not rule out a policy that saves a lot elsewhere.
  """

  policy: str
  seconds: Mapping[str, Mapping[str, float]]
  slowdown: Mapping[str, float]


def input_shape(inputs: Inputs | Reader) -> tuple:
  """What a measurement holds for: structure, shapes, dtypes and whether on the device.

  Of a reader it is the size.
  """
  if not isinstance(inputs, Mapping):
    return (inputs.size,)
  leaves, structure = jax.tree.flatten(dict(inputs))
  return structure, tuple(
    (leaf.shape, leaf.dtype, isinstance(leaf, jax.Array)) for leaf in leaves
  )


class Dispatcher:
  """Runs a route, and each path only on the examples that were routed to it.

  Args:
    route: `(variables, inputs, extra) -> (chosen i32[B], shared)`. `shared` is a
      pytree with leaves `[B, ...]` that the paths may use again and that is
      returned: gate logits, or what a cheap expert already computed.
    paths: K functions `(variables, inputs, shared) -> outputs`; see
      `jdyn.ops.dispatch` for what they must have in common.
    route_reads: names of the inputs that the route is given; None gives all.
    path_reads: the same for each path.

  Variables and `extra` (thresholds and the like) are arguments of the compiled
  programs, never constants in them, so one Dispatcher serves any number of them.

  Attributes:
    measured: what `auto` chose, and why, by input shape.

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
    self._programs = {
      policy: jax.jit(self.program(policy)) for policy in ('dense', 'switch', 'ladder')
    }
    self._route_program = jax.jit(self._routed)
    self._path_programs = [jax.jit(_on_rows(path)) for path in self._paths]
    self._as_routed: dict[int, jax.Array] = {}
    self.measured: dict[tuple, Measured] = {}

  def __call__(
    self,
    variables: PyTree,
    inputs: Inputs | Reader,
    extra: PyTree,
    policy: str = 'auto',
    forced: jax.Array | np.ndarray | None = None,
  ) -> tuple[jax.Array, PyTree, PyTree]:
    """`(chosen i32[B], shared, outputs)`, the same under every policy.

    Args:
      variables: given to the route and the paths.
      inputs: `{name: pytree with leaves [B, ...]}`, or a `Reader`. With a reader,
        `buckets` reads what the route reads for all rows, and for each path only
        what is still missing and only for its own rows; `auto` is `buckets`. The
        other policies read everything.
      extra: given to the route.
      policy: one of `POLICIES`.
      forced: `i32[B]`, paths chosen by the caller instead of by the route, -1 for
        `as routed`; None routes all.

    The results are on the device, not yet waited for, except that `buckets` returns
    NumPy outputs where more than one path ran.

    Raises:
      ValueError: for an unknown policy, an empty batch, an input that is declared to
        be read and is not there, `switch` on more than one example.
    """
    if policy not in POLICIES:
      raise ValueError(f'Unknown policy {policy!r}; expected one of {POLICIES}.')
    if policy == 'auto' and not isinstance(inputs, Mapping):
      policy = 'buckets'
    if policy == 'auto':
      found = self.measured.get(input_shape(inputs))
      policy = (found or self.measure(variables, inputs, extra)).policy
    source = _Source(inputs)
    if forced is None:
      forced = self._no_choice(source.size)
    if policy == 'buckets':
      return self._buckets(variables, source, extra, forced)
    reads = self._all_reads()
    arrays = source.held(reads) | source.read(reads, None)
    return self._programs[policy](variables, arrays, extra, forced)

  def program(self, policy: str) -> Callable[..., tuple[jax.Array, PyTree, PyTree]]:
    """The traced `(variables, inputs, extra, forced) -> (chosen, shared, outputs)`.

    For the caller's own `jax.jit`, `jax.shard_map` or `jax.export`; `policy` is
    `dense`, `switch` or `ladder`. `forced` as in a call, None included.

    Raises:
      ValueError: for a policy that is not one traced program.
    """
    if policy not in ('dense', 'switch', 'ladder'):
      raise ValueError(
        f'policy {policy!r} is not one program; expected dense, switch or ladder.'
      )
    run = getattr(dispatch, policy)

    def program(variables, inputs, extra, forced=None):
      chosen, shared = self._routed(
        variables, _pick(inputs, self._route_reads), extra, forced
      )

      def bound(path, reads):
        return lambda rows: path(variables, _pick(rows[0], reads), rows[1])

      paths = map(bound, self._paths, self._path_reads)
      return chosen, shared, run(chosen, (inputs, shared), list(paths))

    return program

  def measure(self, variables: PyTree, inputs: Inputs, extra: PyTree) -> Measured:
    """Times the policies on these inputs, keeps the result and returns it.

    Every candidate's whole program runs with all examples forced onto each path in
    turn, and with the paths evenly mixed, all of them interleaved. The choice is the
    least mean time over the mixes, among the policies that at no mix are slower than
    `dense` by more than 2 % (`Measured.slowdown`); `dense` itself always qualifies.
    Candidates are `dense` and `buckets`, with `switch` for one example and `ladder`
    for more. Inputs are arrays here, not a reader.
    """
    size, count = _Source(inputs).size, len(self._paths)
    mixes = {f'path {k}': np.full(size, k, np.int32) for k in range(count)}
    if size > 1 and count > 1:
      mixes['even'] = np.arange(size, dtype=np.int32) % count
    candidates = ('dense', 'switch' if size == 1 else 'ladder', 'buckets')

    def call(policy, mix):
      forced = jnp.asarray(mixes[mix])
      return lambda: self(variables, inputs, extra, policy, forced)

    times = interleave(
      {(p, mix): call(p, mix) for mix in mixes for p in candidates},
      rounds=_ROUNDS,
      least=_LEAST,
      budget=_BUDGET,
    )
    seconds = {
      p: {mix: float(np.median(times[p, mix])) for mix in mixes} for p in candidates
    }
    slowdown = {
      p: max(
        float(np.quantile(times[p, mix] / times['dense', mix], 0.25)) for mix in mixes
      )
      for p in candidates
    }
    fit = [p for p in candidates if slowdown[p] <= 1 + _TOLERANCE]
    best = min(fit, key=lambda p: sum(seconds[p].values()))
    found = Measured(best, seconds, slowdown)
    self.measured[input_shape(inputs)] = found
    return found

  def _routed(self, variables, inputs, extra, forced):
    chosen, shared = self._route(variables, inputs, extra)
    if forced is not None:
      chosen = jnp.where(forced < 0, chosen, forced)
    return jnp.clip(chosen, 0, len(self._paths) - 1).astype(jnp.int32), shared

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

  def _all_reads(self) -> list[str] | None:
    every = (self._route_reads, *self._path_reads)
    if any(reads is None for reads in every):
      return None
    return sorted({name for reads in every for name in reads})

  def _no_choice(self, size: int) -> jax.Array:
    if size not in self._as_routed:
      self._as_routed[size] = jnp.full((size,), -1, jnp.int32)
    return self._as_routed[size]


class _Source:
  """The inputs of one call: what is on the device, and how to read the rest.

  A mapping is a reader too, one that reads by indexing; its JAX arrays are on the
  device from the start.
  """

  def __init__(self, inputs: Inputs | Reader):
    self._names: tuple[str, ...] | None = None
    self._held: dict[str, PyTree] = {}
    if isinstance(inputs, Mapping):
      self._names = tuple(inputs)
      self._held = {n: x for n, x in inputs.items() if _on_device(x)}
      self._read = lambda names, rows: _take({n: inputs[n] for n in names}, rows)
      self.size = len(jax.tree.leaves(dict(inputs))[0]) if inputs else 0
    else:
      self._read, self.size = inputs.read, inputs.size
    if not self.size:
      raise ValueError('inputs hold no example: give at least one.')

  def held(self, names: Sequence[str] | None) -> dict[str, PyTree]:
    """Of these inputs, the ones that are on the device, all rows."""
    names = self._names if names is None else names
    return {n: self._held[n] for n in names or () if n in self._held}

  def read(
    self, names: Sequence[str] | None, rows: np.ndarray | None
  ) -> dict[str, PyTree]:
    """Of these inputs, the others, at these rows."""
    names = self._names if names is None else names
    if names is None:
      return dict(self._read(None, rows))
    if self._names is not None and (lacking := sorted({*names} - {*self._names})):
      raise ValueError(
        f'inputs lack {lacking}, which route_reads or path_reads name; they have'
        f' {sorted(self._names)}.'
      )
    missing = [n for n in names if n not in self._held]
    return dict(self._read(missing, rows)) if missing else {}

  def hold(self, names: Sequence[str] | None) -> dict[str, PyTree]:
    """All rows of these inputs on the device, kept for later."""
    read = jax.device_put(self.read(names, None))
    self._held |= read
    if names is None:
      self._names = tuple(self._held)
    return self.held(names)


def _on_rows(path: Path) -> Callable[..., PyTree]:
  """The program of one bucket: gathers `rows` of what is on the device."""

  def run(variables, held, read, shared, rows):
    held, shared = _take((held, shared), rows)
    return path(variables, held | read, shared)

  return run


def _filled(tree: PyTree, size: int) -> PyTree:
  """NumPy rows repeated up to the next of the static sizes for a batch of `size`."""

  def fill(leaf):
    leaf = np.asarray(leaf)
    rungs = dispatch.default_rungs(size)
    spare = rungs[bisect.bisect_left(rungs, len(leaf))] - len(leaf)
    return np.concatenate([leaf, np.broadcast_to(leaf[:1], (spare, *leaf.shape[1:]))])

  return jax.tree.map(fill, tree)


def _scattered(groups: Sequence[np.ndarray], parts: Sequence[np.ndarray]) -> np.ndarray:
  """The rows of each group back in their places in the batch."""
  size = sum(map(len, groups))
  whole = np.empty((size, *parts[0].shape[1:]), parts[0].dtype)
  for group, part in zip(groups, parts, strict=True):
    whole[group] = part[: len(group)]
  return whole


def _take(tree: PyTree, rows: Any) -> PyTree:
  return tree if rows is None else jax.tree.map(lambda leaf: leaf[rows], tree)


def _pick(inputs: Inputs, names: Sequence[str] | None) -> dict[str, PyTree]:
  return dict(inputs) if names is None else {name: inputs[name] for name in names}


def _on_device(tree: PyTree) -> bool:
  return all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree))
