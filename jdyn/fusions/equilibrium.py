"""Equilibrium fusion: the fused feature is a fixed point (DEQ fusion, Ni et al. 2023).

The states of the modalities depend neither on each other nor on the fused state, so the
system is solved block by block: one fixed point per modality, then the fused one, each
until every example has converged.

As released, the map has no fixed point at initialisation: a group norm scales what it
gets to unit size however small that is, so that small features are drowned by the
state and small states are stretched, and every modality stretches the fused state. Here
the norms' epsilon is 1, so that they bound large signals and leave small ones as they
are, the modalities are averaged, and the norm that ends each map starts at
`state_scale`; then plain iteration converges from the start, for every example, in few
steps, whatever the size of the features.
`equilibrium_released` is the original.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.cost import count_macs
from jdyn.layers.dense import Dense
from jdyn.layers.equilibrium import PurifyCombine, ResidualCell, WeightedSum
from jdyn.ops import jacobian, solvers
from jdyn.ops.fixed_point import (
  Adjoint,
  Criterion,
  Implicit,
  Phantom,
  Solution,
  Unrolled,
  fixed_point,
)
from jdyn.ops.random import row_keys
from jdyn.typing import Fused

FUSED = 'fused'
"""Name of the fused state among the blocks."""


class Equilibrium(nn.Module):
  """Fuses arrays of one shape `[B, ..., D]` to an array of that shape.

  Attributes:
    features: D; inputs of other widths are projected to it. 0: all have one width.
    cell: map of a modality's state: `residual`, or `features` for none.
    groups: of the norms; D must be a multiple.
    epsilon: of the norms.
    state_scale: initial scale of the norm that ends each map.
    solver: `picard`, `anderson` or `broyden`.
    history: memory of Anderson's and Broyden's solvers.
    damping: of Picard's steps; Anderson's mixing.
    max_steps: evaluations of each map at most.
    tol: relative residual at which an example has converged.
    adjoint: where gradients come from: `implicit`, `phantom` or `unrolled`.
    adjoint_steps: evaluations of the adjoint map at most; or phantom steps.
    adjoint_tol: relative residual at which its adjoint has converged.
    jacobian_probes: random probes per example of the Jacobian, for the loss
      `jacobian`; 0 leaves it out.
    jacobian_share: share of the steps on which it is computed, and then weighted up.
    axis_name: name of the mapped data axis, for the probes.
  """

  features: int = 0
  cell: Literal['residual', 'features'] = 'residual'
  groups: int = 1
  epsilon: float = 1.0
  state_scale: float = 0.25
  solver: str = 'anderson'
  history: int = 5
  damping: float = 1.0
  max_steps: int = 20
  tol: float = 1e-3
  adjoint: str = 'implicit'
  adjoint_steps: int = 20
  adjoint_tol: float = 1e-3
  jacobian_probes: int = 0
  jacobian_share: float = 1.0
  axis_name: str | None = None

  @nn.compact
  def __call__(self, inputs: Mapping[str, jax.Array], *, train: bool) -> Fused:
    """The fused state.

    `aux` says per block x (each modality, and `fused`) what the solver did:
    `solver/x/steps`, `solver/x/residual` and `solver/x/converged` `[B]`, and
    `solver/x/trace` `[B, max_steps]`; then `unspent_macs` `[B]`, of the steps that the
    cap would have allowed; and `jacobian` `[B]`, summed over the blocks, 0 in
    evaluation.

    Raises:
      ValueError: the widths of the inputs do not fit, or a field is out of range.
    """
    if self.cell not in ('residual', 'features'):
      raise ValueError(f"cell={self.cell!r}; expected 'residual' or 'features'.")
    features = self._features(inputs)
    fused = WeightedSum(name='injection')(features)
    norm = dict(groups=self.groups, scale=self.state_scale, epsilon=self.epsilon)
    aux: dict[str, jax.Array] = {}
    # The modalities are rows of one problem, so that one loop solves them all.
    states = jnp.stack(list(features.values()))
    if self.cell == 'residual':
      stacked = nn.vmap(ResidualCell, {'params': 0}, {'params': True})
      cells = stacked(**norm, name='cells')
      states = self._solve(tuple(features), cells, states, (), train, aux)
    cell = PurifyCombine(**norm, name='combine')
    others = (dict(zip(features, states[:, None], strict=True)),)
    value = self._solve((FUSED,), cell, fused[None], others, train, aux)
    return Fused(value[0].astype(_dtype(inputs)), aux=aux)

  def _features(self, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The inputs at one width, in float32 at least: the tolerance is below bfloat16."""
    wide = jnp.promote_types(_dtype(inputs), jnp.float32)
    features = {name: inputs[name].astype(wide) for name in sorted(inputs)}
    if self.features:
      return {
        name: Dense(self.features, name=f'project_{name}')(x)
        for name, x in features.items()
      }
    check_shapes(features)
    return features

  def _solve(self, names, cell, x, others, train, aux) -> jax.Array:
    """The fixed points `[M, B, ..., D]` of the blocks `names`.

    Args:
      names: of the M blocks.
      cell: `(z, x, *others) -> z` for all of them.
      x: features, `[M, B, ..., D]`.
      others: what else the cell reads.
      train: whether the Jacobian is estimated.
      aux: the diagnostics are added to it.
    """
    if self.is_initializing():
      return cell(jnp.zeros_like(x), x, *others)
    module, variables = cell.unbind()

    def f(z, params):
      variables, x, others = params
      return _rows(module.apply(variables, z.reshape(x.shape), x, *others))

    params = (variables, x, others)
    solution = fixed_point(
      f,
      jnp.zeros_like(_rows(x)),
      params,
      solver=self._solver(),
      max_steps=self.max_steps,
      tol=self.tol,
      adjoint=self._adjoint(),
    )
    aux |= diagnostics(names, solution)
    blocks = x.shape[:2]
    if self.adjoint != 'unrolled':  # Which runs all steps.
      macs = count_macs(f, _rows(x), params) // (blocks[0] * blocks[1])
      unspent = macs * (self.max_steps - solution.steps)
      _add(aux, 'unspent_macs', unspent.reshape(blocks).sum(axis=0))
    if self.jacobian_probes:
      held = (variables, x, jax.lax.stop_gradient(others))
      size = (
        self._penalty(lambda z: f(z, held), solution.value, blocks)
        if train
        else jnp.zeros_like(solution.residual)
      )
      _add(aux, 'jacobian', size.reshape(blocks).sum(axis=0))
    return solution.value.reshape(x.shape)

  def _penalty(self, f: Callable, z: jax.Array, blocks) -> jax.Array:
    """The Jacobian's size at each row of `z`, on a share of the steps."""
    key, of_probes = jax.random.split(self.make_rng('probe'))

    def estimate():
      # An example's probes do not depend on how many rows this device has.
      examples = jnp.moveaxis(z.reshape(*blocks, *z.shape[1:]), 0, 1)
      probes = draw_probes(of_probes, self.jacobian_probes, examples, self.axis_name)
      probes = jnp.moveaxis(probes, 2, 1).reshape(-1, *z.shape)
      return jacobian.squared_norm(f, z, probes) / self.jacobian_share

    if self.jacobian_share == 1:
      return estimate()
    drawn = jax.random.uniform(key) < self.jacobian_share
    return jax.lax.cond(drawn, estimate, lambda: jnp.zeros(z.shape[0], z.dtype))

  def _solver(self) -> solvers.Solver:
    return make_solver(self.solver, self.history, self.damping)

  def _adjoint(self) -> Adjoint:
    match self.adjoint:
      case 'implicit':
        criterion = Criterion(self.adjoint_steps, self.adjoint_tol)
        return Implicit(self._solver(), criterion)
      case 'phantom':
        return Phantom(self.adjoint_steps, self.damping)
      case 'unrolled':
        return Unrolled()
    raise ValueError(
      f"adjoint={self.adjoint!r}; expected 'implicit', 'phantom' or 'unrolled'."
    )


def make_solver(name: str, history: int, damping: float) -> solvers.Solver:
  """The solver of that name.

  Raises:
    ValueError: there is none.
  """
  match name:
    case 'picard':
      return solvers.picard(damping)
    case 'anderson':
      return solvers.anderson(history, damping)
    case 'broyden':
      return solvers.broyden(history)
  raise ValueError(f"solver={name!r}; expected 'picard', 'anderson' or 'broyden'.")


def diagnostics(names: Sequence[str], solution: Solution) -> dict[str, jax.Array]:
  """What the solver did, as `aux` holds it: `[B, ...]` each.

  Args:
    names: of M blocks.
    solution: of `M * B` rows, block by block.
  """
  rows = {
    'steps': solution.steps,
    'residual': solution.residual,
    'converged': solution.converged.astype(jnp.float32),
    'trace': solution.trace.T,
  }
  found = {}
  for key, x in jax.lax.stop_gradient(rows).items():
    blocks = x.reshape(len(names), -1, *x.shape[1:])
    found |= {f'solver/{name}/{key}': blocks[m] for m, name in enumerate(names)}
  return found


def draw_probes(
  key: jax.Array, count: int, z: jax.Array, axis_name: str | None
) -> jax.Array:
  """Standard normal `[count, B, ...]` for states `z` `[B, ...]`."""
  rows = row_keys(key, z.shape[0], axis_name)
  shape = (count, *z.shape[1:])
  return jax.vmap(lambda key: jax.random.normal(key, shape, z.dtype), out_axes=1)(rows)


def _rows(x: jax.Array) -> jax.Array:
  """`[M * B, ...]` of `[M, B, ...]`."""
  return x.reshape(-1, *x.shape[2:])


def _add(aux: dict[str, jax.Array], name: str, value: jax.Array) -> None:
  aux[name] = aux[name] + value if name in aux else value


def check_shapes(features: Mapping[str, jax.Array]) -> None:
  """Raises ValueError if the features are not of one shape."""
  shapes = {name: x.shape[1:] for name, x in features.items()}
  if len(set(shapes.values())) > 1:
    raise ValueError(
      f'Equilibrium fusion needs features of one shape, got {shapes}; give all '
      'encoders the same width, or set features to a width to project to.'
    )


def _dtype(inputs: Mapping[str, jax.Array]):
  return jnp.result_type(*inputs.values())
