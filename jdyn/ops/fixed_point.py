"""Fixed points `z = f(z, params)` with implicit gradients.

Forward: a solver (`jdyn.ops.solvers`) runs until every example has converged; each
stops by itself and keeps its best iterate. Backward: at a solution, the implicit
function theorem gives `dz = (I - J)^-1 (df/dparams) dparams` with `J = df/dz`,
whatever the solver did, so nothing of its iterations is stored. The adjoint problem
`u = J^T u + g` is again a fixed point, solved in the same way.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jdyn.ops.solvers import Solver, anderson, varying_like


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Solution:
  """What a solver found, per example.

  Attributes:
    value: the image `f(z)` of the best iterate z, in the shape of `z0`; the iterate
      itself where its image is not finite.
    residual: [B] in the type of `z0`, `|f(z) - z|` of the best iterate, relative to
      `|f(z)|` if so asked.
    steps: f32[B], evaluations of `f` until the example stopped.
    converged: bool[B]. Where it is False, `value` is only the best of `steps` tries.
    trace: [max_steps, B], the residual at each evaluation; after an example has
      stopped, its last one, which may not be finite.
    iterate: the best iterate itself.
  """

  value: Any
  residual: jax.Array
  steps: jax.Array
  converged: jax.Array
  trace: jax.Array
  iterate: Any


@dataclasses.dataclass(frozen=True)
class Criterion:
  """When an example stops.

  Attributes:
    max_steps: evaluations of the function at most.
    tol: residual below which an example has converged.
    stop: `rel`, `|f(z) - z| / (|f(z)| + floor)`, or `abs`, `|f(z) - z|`; Euclidean
      norms over all that belongs to an example.
    floor: keeps the relative residual of a solution 0 finite. It is small because an
      adjoint problem has the scale of the loss.
    together: the batch is one example, which stops when its residual is below `tol`,
      and its best iterate is that of the least residual: DEQ fusion's rules. Under
      them, a prediction depends on its neighbours, and an iteration that runs off to
      infinity keeps its last iterate, whose relative residual is the least.
  """

  max_steps: int = 30
  tol: float = 1e-3
  stop: str = 'rel'
  floor: float = 1e-20
  together: bool = False

  def __post_init__(self):
    """Checks the fields."""
    if self.max_steps < 1:
      raise ValueError(f'max_steps={self.max_steps} must be at least 1.')
    for name in ('tol', 'floor'):
      if not getattr(self, name) >= 0:
        raise ValueError(f'{name}={getattr(self, name)} must be at least 0.')
    if self.stop not in ('rel', 'abs'):
      raise ValueError(f"stop={self.stop!r}; expected 'rel' or 'abs'.")

  def measure(self, x: jax.Array, fx: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Residuals `[B]` of iterates and images `[B, N]`, and what the best has least of.

    That is the distance `|f(x) - x|`.
    """
    axes = None if self.together else 1
    residual = distance = _norm(fx - x, axes)
    if self.stop == 'rel':
      size = _norm(fx, axes)
      # A size that overflows must not make the residual 0.
      residual = jnp.where(jnp.isfinite(size), distance / (size + self.floor), jnp.inf)
    merit = residual if self.together else distance
    batch = x.shape[:1]
    return jnp.broadcast_to(residual, batch), jnp.broadcast_to(merit, batch)


@dataclasses.dataclass(frozen=True)
class Implicit:
  """Gradients by the implicit function theorem, through `lax.custom_root`.

  Attributes:
    solver: of the adjoint problem.
    criterion: of the adjoint problem. Where it does not converge, the best iterate is
      used.
    refine: start one evaluation ahead of 0, and use the image of the best iterate.
      Without, as DEQ fusion's code does: start from 0, and use the iterate.
  """

  solver: Solver = dataclasses.field(default_factory=anderson)
  criterion: Criterion = Criterion()
  refine: bool = True


@dataclasses.dataclass(frozen=True)
class Phantom:
  """Gradients of a few damped steps at the solution (Geng et al., NeurIPS 2021).

  One undamped step is Jacobian-free backpropagation (Fung et al., AAAI 2022).

  Attributes:
    steps: that are differentiated.
    damping: share of each step's image, in (0, 1].
  """

  steps: int = 1
  damping: float = 1.0

  def __post_init__(self):
    """Checks the fields."""
    if self.steps < 1:
      raise ValueError(f'steps={self.steps} must be at least 1.')
    if not 0 < self.damping <= 1:
      raise ValueError(f'damping={self.damping} must lie in (0, 1].')


@dataclasses.dataclass(frozen=True)
class Unrolled:
  """Gradients through all of the solver's steps; memory grows with their number.

  Attributes:
    remat: store what each step starts from, the solver's memory included, and compute
      the rest again.
  """

  remat: bool = False


@dataclasses.dataclass(frozen=True)
class Detached:
  """No gradients."""


Adjoint = Implicit | Phantom | Unrolled | Detached


def fixed_point(
  f: Callable[[Any, Any], Any],
  z0: Any,
  params: Any,
  *,
  solver: Solver | None = None,
  max_steps: int = 30,
  tol: float = 1e-3,
  stop: str = 'rel',
  adjoint: Adjoint | None = None,
) -> Solution:
  """Solves `z = f(z, params)` for every example of a batch.

  Gradients reach `params` and whatever `f` closes over, by way of `value` alone, and
  never `z0`, so a warm start changes no gradient.

  Args:
    f: maps `z` and `params` to a tree like `z0`. It must treat the examples
      separately.
    z0: array or tree of arrays `[B, ...]`, all float32 or all float64, from which the
      iteration starts: zeros, or the solution of a similar problem. Half precision
      is below any useful tolerance; `f` may compute in it and cast.
    params: any tree.
    solver: `anderson()` if None.
    max_steps: evaluations of `f` at most.
    tol: residual at which an example stops.
    stop: `rel` or `abs` (see `Criterion`).
    adjoint: where gradients come from; if None, `Implicit` with the same `max_steps`
      and `tol`, always relative.

  Raises:
    ValueError: an argument is out of range, `z0` is not as described, or `f` does not
      map it to its like.
  """
  criterion = Criterion(max_steps, tol, stop)
  if adjoint is None:
    adjoint = Implicit(criterion=Criterion(max_steps, tol))
  _check_map(f, z0, params)

  def flat(x):
    return _flatten(f(_unflatten(x, z0), params))

  unrolled = isinstance(adjoint, Unrolled)
  solution = solve(
    flat if unrolled else lambda x: lax.stop_gradient(flat(x)),
    lax.stop_gradient(_flatten(z0)),
    anderson() if solver is None else solver,
    criterion,
    unroll=adjoint if unrolled else None,
  )
  value = solution.value
  if not unrolled:
    # Of what has not converged, f may not be finite at the image.
    point = jnp.where(solution.converged[:, None], value, solution.iterate)
    differentiable = differentiate(flat, point, adjoint)
    value = differentiable + lax.stop_gradient(value - differentiable)
  return dataclasses.replace(
    solution,
    value=_unflatten(value, z0),
    iterate=lax.stop_gradient(_unflatten(solution.iterate, z0)),
  )


def solve(
  f: Callable[[jax.Array], jax.Array],
  x0: jax.Array,
  solver: Solver,
  criterion: Criterion,
  *,
  unroll: Unrolled | None = None,
) -> Solution:
  """Runs a solver on `[B, N]` arrays; without `unroll`, not differentiable.

  Args:
    f: maps `[B, N]` to its like.
    x0: where to start.
    solver: what to try next.
    criterion: when to stop.
    unroll: run all `criterion.max_steps` as a `scan`, which can be differentiated.
  """

  def measure(x, fx):
    return lax.stop_gradient(criterion.measure(x, fx))

  fx = f(x0)
  x0 = varying_like(x0, fx)
  residual, merit = measure(x0, fx)
  finite = jnp.isfinite(residual)
  start = _State(
    round=jnp.zeros((), jnp.int32),
    x=x0,
    fx=fx,
    memory=solver.init(x0, fx),
    active=finite & (residual >= criterion.tol),
    steps=jnp.ones_like(residual, jnp.float32),
    trace=jnp.broadcast_to(residual[None], (criterion.max_steps, *residual.shape)),
    iterate=x0,
    value=jnp.where(finite[:, None], fx, x0),
    merit=merit,
    residual=jnp.where(finite, residual, jnp.inf),
  )

  def advance(state: _State) -> _State:
    proposed, memory = solver.propose(state.x, state.fx, state.memory, state.round)
    active = state.active
    x = jnp.where(active[:, None], proposed, state.x)
    fx = f(x)
    residual, merit = measure(x, fx)
    finite, done = jnp.isfinite(residual), residual < criterion.tol
    better = active & finite & (done | (merit < state.merit))
    last = jnp.where(active, residual, state.trace[state.round])
    return _State(
      round=state.round + 1,
      x=x,
      fx=fx,
      memory=memory,
      active=active & finite & ~done,
      steps=state.steps + active,
      trace=state.trace.at[state.round + 1].set(last),
      iterate=jnp.where(better[:, None], x, state.iterate),
      value=jnp.where(better[:, None], fx, state.value),
      merit=jnp.where(better, merit, state.merit),
      residual=jnp.where(better, residual, state.residual),
    )

  rounds = criterion.max_steps - 1  # One evaluation is done.
  if unroll is None:
    state = lax.while_loop(
      lambda state: (state.round < rounds) & _any(state.active), advance, start
    )
  else:
    body = jax.checkpoint(advance) if unroll.remat else advance
    state, _ = lax.scan(lambda state, _: (body(state), None), start, length=rounds)

  ahead = jnp.arange(criterion.max_steps) > state.round
  return Solution(
    value=state.value,
    residual=state.residual,
    steps=state.steps,
    converged=state.residual < criterion.tol,
    trace=jnp.where(ahead[:, None], state.trace[state.round][None], state.trace),
    iterate=state.iterate,
  )


def differentiate(
  f: Callable[[jax.Array], jax.Array], x: jax.Array, adjoint: Adjoint
) -> jax.Array:
  """The solution `x` `[B, N]` with gradients for what `f`, of `x = f(x)`, closes over.

  Raises:
    TypeError: `adjoint` is none of them.
  """
  match adjoint:
    case Unrolled():
      return x  # The solver's steps carry the gradients.
    case Detached():
      return lax.stop_gradient(x)
    case Phantom(steps, damping):
      x = lax.stop_gradient(x)
      for _ in range(steps):
        x = x + damping * (f(x) - x)
      return x
    case Implicit():
      return lax.custom_root(
        lambda x: f(x) - x,
        lax.stop_gradient(x),
        lambda _, x: x,
        lambda jacobian, y: _solve_linear(jacobian, y, adjoint),
      )
  raise TypeError(
    f'adjoint={adjoint!r}; expected Implicit(), Phantom(), Unrolled() or Detached().'
  )


def _solve_linear(operator, right: jax.Array, adjoint: Implicit) -> jax.Array:
  """Solves `(J - I) v = right` as the fixed point `v = (J - I) v + v - right`."""

  def iterate(matvec, right):
    solution = solve(
      lambda v: matvec(v) + v - right,
      -right if adjoint.refine else jnp.zeros_like(right),
      adjoint.solver,
      adjoint.criterion,
    )
    return solution.value if adjoint.refine else solution.iterate

  # A loop can be neither transposed nor differentiated backwards; this says that the
  # solution of the transposed system is found in the same way.
  return lax.custom_linear_solve(operator, right, iterate, transpose_solve=iterate)


class _State(NamedTuple):
  """What the loop carries; see `Solution`."""

  round: jax.Array
  x: jax.Array
  fx: jax.Array
  memory: Any
  active: jax.Array
  steps: jax.Array
  trace: jax.Array
  iterate: jax.Array
  value: jax.Array
  residual: jax.Array
  merit: jax.Array


@jax.custom_batching.custom_vmap
def _any(active: jax.Array) -> jax.Array:
  """Whether an example is active, in any of the problems that `vmap` maps over.

  A loop that each of them ended for itself would copy all its memory in every round.
  """
  return jnp.any(active)


@_any.def_vmap
def _any_of_all(size, batched, active):
  del size, batched
  return _any(active), False


def _norm(x: jax.Array, axes: int | None) -> jax.Array:
  return jnp.sqrt(jnp.sum(jnp.square(x), axis=axes))


def _flatten(tree: Any) -> jax.Array:
  """`[B, N]`: all leaves of an example side by side."""
  leaves = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(tree)]
  return leaves[0] if len(leaves) == 1 else jnp.concatenate(leaves, axis=1)


def _unflatten(x: jax.Array, like: Any) -> Any:
  """The tree that `_flatten` made `x` from."""
  leaves, structure = jax.tree.flatten(like)
  sizes = [math.prod(leaf.shape[1:]) for leaf in leaves]
  parts = jnp.split(x, list(itertools.accumulate(sizes))[:-1], axis=1)
  shaped = [p.reshape(leaf.shape) for p, leaf in zip(parts, leaves, strict=True)]
  return jax.tree.unflatten(structure, shaped)


def _check_map(f, z0, params) -> None:
  def describe(tree):
    return jax.tree.map(lambda x: f'{x.dtype}{list(x.shape)}', tree)

  specs = jax.eval_shape(lambda z: z, z0)
  before, leaves = describe(specs), jax.tree.leaves(specs)
  kinds = {leaf.dtype.name for leaf in leaves}
  batches = {leaf.shape[:1] for leaf in leaves}
  if kinds not in ({'float32'}, {'float64'}) or len(batches) > 1 or () in batches:
    raise ValueError(
      'fixed_point: z0 must be arrays [B, ...] of one B, all float32 or all float64, '
      f'but it is {before}.'
    )
  after = describe(jax.eval_shape(f, z0, params))
  if before != after:
    raise ValueError(
      f'fixed_point: f must map z0 to its like, but it maps {before} to {after}.'
    )
