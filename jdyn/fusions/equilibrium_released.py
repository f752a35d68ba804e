"""DEQ fusion as released (github.com/jinhong-ni/DEQFusion), for comparison.

Differences from `equilibrium`: the states of all modalities and the fused state are
solved as one vector; one criterion holds for the batch, so that a prediction depends on
its neighbours; the ridge of Anderson's solver is absolute; the forward tolerance is
absolute, the backward one relative; modalities are added up; and the output is `f(z)`
in training and `z` in evaluation. At initialisation the map has no fixed point, and
the solver runs to its cap.
"""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.cost import count_macs
from jdyn.fusions.equilibrium import FUSED, check_shapes, diagnostics, draw_probes
from jdyn.layers.equilibrium import JointCell, WeightedSum
from jdyn.ops import jacobian
from jdyn.ops.fixed_point import Criterion, Implicit, differentiate, solve
from jdyn.ops.solvers import Solver, anderson, broyden
from jdyn.typing import Fused


class ReleasedEquilibrium(nn.Module):
  """Fuses arrays of one shape `[B, ..., D]` to an array of that shape.

  Attributes:
    cell: map of a modality's state: `residual`, `batch_norm` (CMU-MOSI, with running
      statistics) or `features` (none).
    weighted: inject a learned sum of the features, not their plain one (BRCA).
    relu_last: the fused map ends with its ReLU (MM-IMDB), not with its norm.
    groups: of the normalisations.
    over_steps: normalise the fused state over all steps together (CMU-MOSI).
    layers: apply the map so often instead of solving for its fixed point; 0 solves.
    solver: `anderson` or `broyden`.
    max_steps: the solver's cap (`f_thres`).
    stop: `abs` or `rel`.
    tol: of the batch's norm: 1e-5 in the BRCA code, 1e-3 elsewhere.
    adjoint_steps: cap of the adjoint's solver (`b_thres`); its tolerance is `tol`,
      always relative.
    jacobian_probes: for the loss `jacobian`; 0 leaves it out.
    axis_name: name of the mapped data axis, for the probes.
  """

  cell: Literal['residual', 'batch_norm', 'features'] = 'residual'
  weighted: bool = True
  relu_last: bool = False
  groups: int = 4
  over_steps: bool = False
  layers: int = 0
  solver: str = 'anderson'
  max_steps: int = 105
  stop: str = 'abs'
  tol: float = 1e-5
  adjoint_steps: int = 106
  jacobian_probes: int = 2
  axis_name: str | None = None

  @nn.compact
  def __call__(self, inputs: Mapping[str, jax.Array], *, train: bool) -> Fused:
    """The fused state, and in `aux` what `Equilibrium` gives, of the one block.

    Raises:
      ValueError: the shapes of the inputs differ, or a field is out of range.
    """
    check_shapes(inputs)
    fused = self._fuse(inputs)
    cell = JointCell(
      self.cell, self.groups, self.relu_last, self.over_steps, name='map'
    )
    width, states = fused[0].size, len(inputs) + 1
    x = jnp.zeros((fused.shape[0], states * width), fused.dtype)

    def read(x):
      return x[:, -width:].reshape(fused.shape)

    if self.is_initializing():
      return Fused(read(cell(x, inputs, fused)))
    module, variables = cell.unbind()

    def f(x):
      return module.apply(variables, x, inputs, fused)

    aux = {}
    if self.layers:
      x, _ = jax.lax.scan(lambda x, _: (f(x), None), x, length=self.layers)
    else:
      x, aux = self._solve(f, x, train)
    return Fused(read(x), aux=aux)

  def _fuse(self, inputs: Mapping[str, jax.Array]) -> jax.Array:
    """The fused features, which are injected into the fused state's map."""
    if self.weighted:
      return WeightedSum(name='injection')(inputs)
    return sum(inputs[name] for name in sorted(inputs))

  def _solve(self, f, x0, train):
    solver, extra, floor = self._solver()
    criterion = Criterion(self.max_steps + extra, self.tol, self.stop, floor, True)
    backward = Criterion(self.adjoint_steps + extra, self.tol, 'rel', floor, True)
    solution = solve(lambda x: jax.lax.stop_gradient(f(x)), x0, solver, criterion)
    x = differentiate(f, solution.iterate, Implicit(solver, backward, False))
    aux = diagnostics((FUSED,), solution)
    macs = count_macs(f, x0) // x0.shape[0]
    aux['unspent_macs'] = macs * (criterion.max_steps - solution.steps)
    if train:
      # One more application, through which the original differentiates.
      image = jax.lax.stop_gradient(f(x))
      x += image - jax.lax.stop_gradient(x)
    if self.jacobian_probes:
      aux['jacobian'] = jnp.zeros_like(solution.residual)
      if train:
        key = self.make_rng('probe')
        probes = draw_probes(key, self.jacobian_probes, x, self.axis_name)
        aux['jacobian'] = jacobian.squared_norm(f, solution.iterate, probes)
    return x, aux

  def _solver(self) -> tuple[Solver, int, float]:
    """The solver, its evaluations beyond the cap, and the floor of its residual."""
    match self.solver:
      case 'anderson':
        return anderson(6, ridge=1e-4, scaled=False), 0, 1e-5
      case 'broyden':
        return broyden(self.max_steps), 1, 1e-9
    raise ValueError(f"solver={self.solver!r}; expected 'anderson' or 'broyden'.")
