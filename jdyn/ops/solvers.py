"""Solvers of fixed-point problems `z = f(z)`: Picard, Anderson and Broyden.

A solver is a pair of pure functions, as an optax optimiser is: `init(x, fx)` makes
its memory and `propose(x, fx, memory, step)` the next iterate. It evaluates nothing
itself; `jdyn.ops.fixed_point` does, and decides when to stop. All arrays are
`[B, N]`, and no example ever sees another.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


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
  history: int = 5, mixing: float = 1.0, ridge: float = 1e-7, scaled: bool = True
) -> Solver:
  """Anderson acceleration, type II (Walker and Ni, SIAM J. Numer. Anal. 2011).

  The next iterate combines the last images with the weights, summing to one, that
  make the combined residual smallest; each example has its own.

  DEQ fusion's solver adds a fixed ridge of 1e-4 to the squared residuals. Near a
  solution, and from the start in the adjoint problem, whose vectors are small, that
  ridge is all there is, the weights become uniform, and the solver slower than plain
  iteration. Here the ridge is relative; `scaled=False` is theirs.

  Args:
    history: number of residuals that are combined.
    mixing: 1 combines the images; less moves towards the combined iterates.
    ridge: added to the diagonal of the residuals' Gram matrix.
    scaled: whether the ridge is in units of the mean of that diagonal.
  """
  _check('history', history, history >= 1, 'be at least 1')
  _check('mixing', mixing, 0 < mixing <= 1, 'lie in (0, 1]')
  _check('ridge', ridge, ridge >= 0, 'be at least 0')

  def init(x, fx):
    empty = jnp.zeros((history, *x.shape), x.dtype)
    gram = jnp.zeros((history, history, x.shape[0]), x.dtype)
    return varying_like((empty, empty, gram), fx)

  def propose(x, fx, memory, step):
    images, residuals, gram = memory
    slot, residual = step % history, fx - x
    images = images.at[slot].set(fx)
    residuals = residuals.at[slot].set(residual)
    products = jnp.einsum('mbn,bn->mb', residuals, residual)
    gram = gram.at[slot].set(products).at[:, slot].set(products)

    known = jnp.arange(history) <= step
    weights = _weights(gram, known, ridge, scaled)
    following = jnp.einsum('mb,mbn->bn', weights, images)
    if mixing < 1:
      following -= (1 - mixing) * jnp.einsum('mb,mbn->bn', weights, residuals)
    return following, (images, residuals, gram)

  return Solver(init, propose)


def _weights(gram: jax.Array, known: jax.Array, ridge: float, scaled: bool):
  """The weights `[m, B]` of least combined residual, given `[m, m, B]` products."""
  diagonal = jnp.diagonal(gram).T  # [m, B]
  scale = diagonal.sum(axis=0) / known.sum()
  scale = jnp.where(scale > 0, scale, 1)
  both = (known[:, None] & known[None, :])[..., None]
  # An unknown entry has a one on the diagonal and nothing else, so its weight is 0.
  matrix = jnp.where(both, gram / scale if scaled else gram, 0)
  lift = jnp.where(known, ridge, 1.0).astype(gram.dtype)
  matrix += jnp.diag(lift)[..., None]
  ones = jnp.broadcast_to(known[:, None], diagonal.shape).astype(gram.dtype)
  weights = _solve_positive(matrix, ones)
  return weights / weights.sum(axis=0)


def _solve_positive(matrix: jax.Array, right: jax.Array) -> jax.Array:
  """Solves `B` positive definite systems `[m, m, B]`, `[m, B]` by elimination.

  LAPACK, behind `jnp.linalg.solve`, is called once per example; written out over the
  few rows, XLA fuses all examples.
  """
  size = matrix.shape[0]
  rows, values = list(matrix), list(right)
  for pivot in range(size):
    for row in range(pivot + 1, size):
      factor = rows[row][pivot] / rows[pivot][pivot]
      rows[row] = rows[row] - factor * rows[pivot]
      values[row] = values[row] - factor * values[pivot]
  solution = [None] * size
  for row in reversed(range(size)):
    known = sum(rows[row][j] * solution[j] for j in range(row + 1, size))
    solution[row] = (values[row] - known) / rows[row][row]
  return jnp.stack(solution)


def broyden(history: int = 10) -> Solver:
  """Broyden's good method with limited memory.

  The inverse Jacobian of `f(x) - x` starts at `-I`, so the first step is Picard's,
  and gains one rank-one term per step (Sherman and Morrison); when `history` terms
  are there, the oldest is overwritten. DEQ fusion keeps all terms and so needs
  memory in proportion to its cap of steps.

  Args:
    history: number of rank-one terms.
  """
  _check('history', history, history >= 1, 'be at least 1')

  def init(x, fx):
    empty = varying_like(jnp.zeros((history, *x.shape), x.dtype), fx)
    return x, fx - x, empty, empty

  def propose(x, fx, memory, step):
    last_x, last_residual, us, vs = memory
    residual = fx - x
    dx, dr = x - last_x, residual - last_residual

    def inverse(vector):  # (-I + U V^T) vector
      return -vector + jnp.einsum(
        'mbn,mb->bn', us, jnp.einsum('mbn,bn->mb', vs, vector)
      )

    v = -dx + jnp.einsum('mbn,mb->bn', vs, jnp.einsum('mbn,bn->mb', us, dx))
    denominator = jnp.sum(v * dr, axis=1, keepdims=True)
    usable = denominator != 0
    u = (dx - inverse(dr)) / jnp.where(usable, denominator, 1)
    slot = (step - 1) % history
    # At step 0 there is no step to learn from; dx is 0, and so are u and v.
    us = us.at[slot].set(jnp.where(usable, u, 0))
    vs = vs.at[slot].set(jnp.where(usable, v, 0))
    return x - inverse(residual), (x, residual, us, vs)

  return Solver(init, propose)


def varying_like(tree: Any, like: jax.Array) -> Any:
  """Constants that vary over the mesh axes over which `like` does.

  What a loop under `jax.shard_map` carries must do so from the start. The zero that
  is added costs nothing: the compiler sees that it is one.
  """
  zero = jnp.where(like.reshape(-1)[0] > 0, 0, 0)
  return jax.tree.map(lambda x: x + zero.astype(x.dtype), tree)


def _check(name: str, value, ok: bool, rule: str) -> None:
  if not ok:
    raise ValueError(f'{name}={value} must {rule}.')
