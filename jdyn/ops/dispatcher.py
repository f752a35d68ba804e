"""The host's side of conditional execution: compile, call under a policy, measure.

A `Dispatcher` runs what a route chose for each example under one of `POLICIES`:

- `dense`, `switch`, `ladder`: one program each, see `jdyn.ops.dispatch`.
- `buckets`: the route is one program; the host reads the choice, groups the rows and
  runs a program on each group, filled up to one of a few static sizes.
- `each`: the route is one program; then every example by itself, as many at once as
  there are cores. For a CPU, whose caches hold what one example needs and not a batch.
- `auto`: the fastest of the policies on this machine, measured once per input shape.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jdyn.ops.batch_source import BatchSource, Inputs, PyTree, Reader
from jdyn.ops.processor import jit_for_inference
from jdyn.ops.timing import interleave

TRACED = ('dense', 'switch', 'ladder')
"""Policies that are one program each."""

POLICIES = ('auto', *TRACED, 'buckets', 'each')

# A policy may lose this share of time against dense at any mix and still be chosen.
_TOLERANCE = 0.02
# Of one measurement: turns of each call, the least seconds of a turn, and the seconds
# after which no further round starts.
_ROUNDS, _LEAST, _BUDGET = 25, 4e-3, 3.0
# More are not worth measuring one by one: a call costs a tenth of a millisecond.
_MOST_EACH = 128


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

  Of a reader it is the size, what it has, and what of that are files.
  """
  if not isinstance(inputs, Mapping):
    return inputs.size, tuple(inputs.names), getattr(inputs, 'files', ())
  leaves, structure = jax.tree.flatten(dict(inputs))
  return structure, tuple(
    (leaf.shape, leaf.dtype, isinstance(leaf, jax.Array)) for leaf in leaves
  )


class Dispatcher(abc.ABC):
  """Chooses a path per example, and computes what the chosen ones need.

  What the paths are, and what they have in common, is a subclass's: `PathDispatcher`,
  `StageDispatcher`.

  Variables and `extra` (thresholds and the like) are arguments of the compiled
  programs, never constants in them, so one Dispatcher serves any number of them.

  Args:
    count: number of paths.
    reads: names of the inputs that are read at all; None for all.

  Attributes:
    measured: what `auto` chose, and why, by input shape.
  """

  def __init__(self, count: int, reads: Sequence[str] | None = None):
    self._count, self._reads = count, reads
    self._programs = {
      policy: jit_for_inference(self.program(policy)) for policy in TRACED
    }
    self._as_routed: dict[int, jax.Array] = {}
    self.measured: dict[tuple, Measured] = {}

  @abc.abstractmethod
  def _traced(self, policy, variables, inputs, extra, forced):
    """The program of one of `TRACED`: `(chosen, shared, outputs)`."""

  @abc.abstractmethod
  def _buckets(self, variables, source: BatchSource, extra, forced):
    """The same under policy `buckets`."""

  @abc.abstractmethod
  def _each(self, variables, source: BatchSource, extra, forced):
    """The same under policy `each`."""

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
      inputs: `{name: pytree with leaves [B, ...]}`, or a `Reader`. Only `buckets` and
        `each` may do without reading everything from a reader; `auto` is `buckets`
        then.
      extra: given to the route.
      policy: one of `POLICIES`.
      forced: `i32[B]`, paths chosen by the caller instead of by the route, -1 for
        `as routed`; None routes all.

    The results are on the device, not yet waited for, except that `buckets` may have
    put the outputs of several paths together as NumPy arrays, and `each` has.

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
    source = BatchSource(inputs)
    if forced is None:
      forced = self._no_choice(source.size)
    if policy == 'buckets':
      return self._buckets(variables, source, extra, forced)
    if policy == 'each':
      return self._each(variables, source, extra, forced)
    arrays = source.held(self._reads) | source.read(self._reads, None)
    return self._programs[policy](variables, arrays, extra, forced)

  def program(self, policy: str) -> Callable[..., tuple[jax.Array, PyTree, PyTree]]:
    """The traced `(variables, inputs, extra, forced) -> (chosen, shared, outputs)`.

    For the caller's own `jax.jit`, `jax.shard_map` or `jax.export`; `policy` is
    `dense`, `switch` or `ladder`. `forced` as in a call, None included.

    Raises:
      ValueError: for a policy that is not one traced program.
    """
    if policy not in TRACED:
      raise ValueError(
        f'policy {policy!r} is not one program; expected dense, switch or ladder.'
      )

    def program(variables, inputs, extra, forced=None):
      return self._traced(policy, variables, inputs, extra, forced)

    return program

  def measure(self, variables: PyTree, inputs: Inputs, extra: PyTree) -> Measured:
    """Times the policies on these inputs, keeps the result and returns it.

    Every candidate's whole program runs with all examples forced onto each path in
    turn, and with the paths evenly mixed, all of them interleaved. The choice is the
    least mean time over the mixes, among the policies that at no mix are slower than
    `dense` by more than 2 % (`Measured.slowdown`); `dense` itself always qualifies.
    Candidates are `dense` and `buckets`, with `switch` for one example and `ladder`
    for more, and `each` for up to 128 on a CPU. Inputs are arrays here, not a reader.
    """
    size, count = BatchSource(inputs).size, self._count
    mixes = {f'path {k}': np.full(size, k, np.int32) for k in range(count)}
    if size > 1 and count > 1:
      mixes['even'] = np.arange(size, dtype=np.int32) % count
    candidates = ['dense', 'switch' if size == 1 else 'ladder', 'buckets']
    if 1 < size <= _MOST_EACH and jax.default_backend() == 'cpu':
      candidates.append('each')
    times = interleave(
      {
        (p, mix): partial(self, variables, inputs, extra, p, jnp.asarray(forced))
        for mix, forced in mixes.items()
        for p in candidates
      },
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

  def _settled(self, chosen: jax.Array, forced: jax.Array | None) -> jax.Array:
    """What the route chose, or the caller instead, as numbers of paths."""
    if forced is not None:
      chosen = jnp.where(forced < 0, chosen, forced)
    return jnp.clip(chosen, 0, self._count - 1).astype(jnp.int32)

  def _no_choice(self, size: int) -> jax.Array:
    if size not in self._as_routed:
      self._as_routed[size] = jnp.full((size,), -1, jnp.int32)
    return self._as_routed[size]
