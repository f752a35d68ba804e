"""Solvers of fixed-point problems `z = f(z)`: Picard, Anderson and Broyden.

A solver is a pair of pure functions, as an optax optimiser is: `init(x, fx)` makes
its memory and `propose(x, fx, memory, step)` the next iterate. It evaluates nothing
itself; `jdyn.ops.fixed_point` does, and decides when to stop. All arrays are
`[B, N]`, and no example ever sees another.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Solver(NamedTuple):
  """How the next iterate follows from those before it.

  Attributes:
    init: `(x, fx) -> memory` of the first iterate and its image, `[B, N]` both.
    propose: `(x, fx, memory, step) -> (next x, memory)` after evaluation number
      `step`, which starts at 0.
  """

  init: Callable[[jax.Array, jax.Array], Any]
  propose: Callable[..., tuple[jax.Array, Any]]


def picard(damping: float = 1.0) -> Solver:
  """Plain iteration, `x + damping * (f(x) - x)`.

  Args:
    damping: in (0, 1]; 1 is undamped. A smaller value converges for some maps that
      are no contraction, such as rotations.
  """
  _check('damping', damping, 0 < damping <= 1, 'lie in (0, 1]')

  def propose(x, fx, memory, step):
    del step
    return x + damping * (fx - x), memory

  return Solver(lambda x, fx: (), propose)


def anderson(
  history: int = 5, mixing: float = 1.0, ridge: float = 64.0, scaled: bool = True
) -> Solver:
  """Anderson acceleration, type II (Walker and Ni, SIAM J. Numer. Anal. 2011).

  The next iterate combines the last images with the weights, summing to one, that
  make the combined residual smallest; each example has its own.

  DEQ fusion's solver adds a fixed ridge of 1e-4 to the squared residuals. Near a
  solution, and from the start in the adjoint problem, whose vectors are small, that
  ridge is all there is, the weights become uniform, and the solver slower than plain
  iteration. Here the ridge is relative; `scaled=False` is theirs.

  The relative ridge only has to keep rounding errors from making the Gram matrix
  indefinite, which breaks the solver down (below 1e-7 in float32). From there to 1e-3,
  it makes no difference on contractions, DEQ cells and their adjoints; on problems
  that are nearly singular, less is better.

  Args:
    history: number of residuals that are combined.
    mixing: 1 combines the images; less moves towards the combined iterates.
    ridge: added to the diagonal of the residuals' Gram matrix.
    scaled: whether in units of rounding error, the diagonal's entries times the
      `eps` of their type, so that the solver does not depend on the problem's scale.
  """
  _check('history', history, history >= 1, 'be at least 1')
  _check('mixing', mixing, 0 < mixing <= 1, 'lie in (0, 1]')
  _check('ridge', ridge, ridge > 0, 'be positive')

  def init(x, fx):
    empty = _history(history, x)
    gram = jnp.zeros((history, history, x.shape[0]), x.dtype)
    return varying_like((empty, empty, gram), fx)

  def propose(x, fx, memory, step):
    images, residuals, gram = memory
    slot, residual = step % history, fx - x
    images = images.at[:, slot].set(fx)
    residuals = residuals.at[:, slot].set(residual)
    products = _einsum('bmn,bn->bm', residuals, residual).T
    gram = gram.at[slot].set(products).at[:, slot].set(products)

    weights = _weights(gram, jnp.arange(history) <= step, ridge, scaled)
    following = _einsum('bm,bmn->bn', weights.T, images)
    if mixing < 1:
      following -= (1 - mixing) * _einsum('bm,bmn->bn', weights.T, residuals)
    return following, (images, residuals, gram)

  return Solver(init, propose)


def _weights(gram: jax.Array, known: jax.Array, ridge: float, scaled: bool):
  """The weights `[m, B]` of least combined residual, given `[m, m, B]` products."""
  diagonal = jnp.diagonal(gram).T  # [m, B]
  known = jnp.broadcast_to(known[:, None], diagonal.shape).astype(gram.dtype)
  lift = ridge * known
  if scaled:
    lift *= jnp.finfo(gram.dtype).eps * diagonal
  # An entry still unknown is all 0. With a one on the diagonal, its weight is 0.
  lift = jnp.where(diagonal + lift > 0, lift, 1)
  identity = jnp.eye(len(gram), dtype=gram.dtype)[..., None]
  weights = _solve_positive(gram + identity * lift[None], known)
  return weights / weights.sum(axis=0, keepdims=True)


def _solve_positive(matrix: jax.Array, right: jax.Array) -> jax.Array:
  """Solves `B` positive definite systems `[m, m, B]`, `[m, B]` (Gauss and Jordan).

  LAPACK, behind `jnp.linalg.solve`, is called once per example; written out over the
  few pivots, XLA fuses all examples.
  """
  rows = jnp.concatenate([matrix, right[:, None]], axis=1)
  for pivot in range(len(matrix)):
    row = rows[pivot] / rows[pivot, pivot][None]
    rows = (rows - rows[:, pivot][:, None] * row[None]).at[pivot].set(row)
  return rows[:, -1]


def broyden(history: int = 10) -> Solver:
  """Broyden's good method with limited memory.

  The inverse Jacobian of `f(x) - x` starts at `-I`, so the first step is Picard's,
  and gains one rank-one term per step (Sherman and Morrison). When `history` terms
  are there, it starts again at `-I` (Kelley, Solving Nonlinear Equations with
  Newton's Method, 2003): each term corrects the sum of those before it, and is wrong
  without them, so that overwriting the oldest alone can stop all progress. DEQ
  fusion keeps all terms and so needs memory in proportion to its cap of steps.

  Args:
    history: number of rank-one terms.
  """
  _check('history', history, history >= 1, 'be at least 1')

  def init(x, fx):
    empty = varying_like(_history(history, x), fx)
    return x, fx - x, empty, empty

  def propose(x, fx, memory, step):
    last_x, last_residual, us, vs = memory
    residual = fx - x
    dx, dr = x - last_x, residual - last_residual

    # Which term this step adds; those after it are of before the restart.
    slot = (step - 1) % history

    def product(us, vs, vector, count):  # U V^T vector, of the first terms
      weights = _einsum('bmn,bn->bm', vs, vector)
      weights = jnp.where(jnp.arange(history) < count, weights, 0)
      return _einsum('bmn,bm->bn', us, weights)

    v = product(vs, us, dx, slot) - dx
    denominator = jnp.sum(v * dr, axis=1, keepdims=True)
    usable = denominator != 0
    u = (dx + dr - product(us, vs, dr, slot)) / jnp.where(usable, denominator, 1)
    # At step 0 there is no step to learn from: dx and dr are 0, and so is the term.
    us = us.at[:, slot].set(u)
    vs = vs.at[:, slot].set(jnp.where(usable, v, 0))
    following = x + residual - product(us, vs, residual, slot + 1)
    return following, (x, residual, us, vs)

  return Solver(init, propose)


def _history(length: int, x: jax.Array) -> jax.Array:
  """Room for so many arrays like `x`, `[B, length, N]`.

  An example's own lie together: on a CPU, products with them run several times as
  fast as with `[length, B, N]`.
  """
  return jnp.zeros((x.shape[0], length, x.shape[1]), x.dtype)


def varying_like(tree: Any, like: jax.Array) -> Any:
  """Constants that vary over the mesh axes over which `like` does.

  What a loop under `jax.shard_map` carries must do so from the start. The zero that
  is added costs nothing: the compiler sees that it is one.
  """
  zero = jnp.where(like.reshape(-1)[0] > 0, 0, 0)
  return jax.tree.map(lambda x: x + zero.astype(x.dtype), tree)


# Accelerators round the factors of a product to fewer bits unless told otherwise.
_einsum = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)


def _check(name: str, value, ok: bool, rule: str) -> None:
  if not ok:
    raise ValueError(f'{name}={value} must {rule}.')
