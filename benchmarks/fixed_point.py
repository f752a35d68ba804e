"""Fixed-point solvers beside jaxopt's and optimistix's, on their own test problems.

  python -m benchmarks.fixed_point [--rounds N] [--only NAME ...] [--json FILE]

optimistix is measured where it is installed; this library does not need it. The
problems are those of the two libraries' tests (jaxopt: `fixed_point_iteration_test`,
`anderson_test`; optimistix: `helpers.py`), flattened to vectors, in float64, and a
batch of maps as in an equilibrium model, in float32, where some examples take many
more steps than others. This library solves the batch as it is; the others, whose
solvers take one problem, are mapped over it with `vmap`.

All run until the Euclidean norm of `f(z) - z` of an example is below one absolute
tolerance, 1e-6 (1e-4 in float32), or to a cap of evaluations; the rest is as each
library has it. Of each:

- evaluations of `f`, counted while it runs, line searches included; of the batch, per
  example, whether it still moves or not;
- products with the Jacobian of `f` or its transpose that the gradient takes, where a
  Jacobian made as a matrix counts as many as it has columns;
- the largest residual that is left, evaluated anew in float64, and the largest error
  of the solution and of the gradient, to those by Newton's method and a linear solve;
  some maps have more than one fixed point, and what ends at another has not solved it;
- times of compiled calls, `forward`, and `gradient` of value and gradient in all
  parameters together: the median of the rounds, in which all take turns, and the best.
"""

import argparse
import collections
import dataclasses
import importlib
import importlib.metadata
import itertools
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from benchmarks.rows import row, write_rows
from jdyn.evaluators.latency import device_name
from jdyn.ops import solvers
from jdyn.ops.fixed_point import fixed_point

MAX_ERROR = 1e-2  # What ends further off is at another fixed point, or at none.
FIGURES = {  # Name: unit, format.
  'evaluations': ('', '.0f'),
  'residual': ('', '.0e'),
  'error': ('', '.0e'),
  'forward': ('ms', '.3f'),
  'forward, best': ('ms', '.3f'),
  'products': ('', '.0f'),
  'gradient error': ('', '.0e'),
  'gradient': ('ms', '.3f'),
  'gradient, best': ('ms', '.3f'),
}

# Problems.


@dataclasses.dataclass(frozen=True)
class Problem:
  """`z = map(z, params)`, of one example, and where a batch of them starts.

  Attributes:
    map: from `[N]`, and the parameters of one example, to `[N]`.
    start: `[B, N]`.
    params: a tree; leaves that `axes` does not name are shared by the batch.
    solution: `[N]` or `[B, N]`; None where Newton's method finds it.
    axes: those of `params` for `vmap`.
    cap: evaluations at most.
    tol: norm of the residual at which an example stops.
    history: of Anderson's method, as in the libraries' tests.
  """

  map: Callable[[jax.Array, Any], jax.Array]
  start: Any
  params: Any
  solution: Any = None
  axes: Any = None
  cap: int = 200
  tol: float = 1e-6
  history: int = 5

  def batched(self, z: jax.Array, params: Any) -> jax.Array:
    """The map of the batch."""
    return jax.vmap(self.map, (0, self.axes))(z, params)


def _problems() -> dict[str, Problem]:
  """By name; the first five are jaxopt's, the following optimistix's."""
  random = np.random.default_rng(0)
  uniform, normal = random.uniform, random.standard_normal
  half = np.full((1, 28), 0.5)

  symmetric = uniform(-1, 1, (200, 200))
  symmetric += symmetric.T
  symmetric /= 2 * np.linalg.eigvalsh(symmetric)[-1] + 1e-4
  angles = np.pi / np.array([2, 3, 4, 5, 6, 1.27, 1.73])
  centre = np.arange(1.0, 15)

  def rotation(z, params):
    angles, centre = params
    x, y = (z - centre).reshape(-1, 2).T
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.stack([cos * x - sin * y, sin * x + cos * y], axis=1).ravel() + centre

  def sine(z, params):
    squared, cubed = z[:3], z[3:]
    images = jnp.concatenate([jnp.sin(squared) * squared**2, cubed**3])
    return params * images

  def network(z, params):
    w1, b1, w2, b2 = params
    return 0.1 * (w2 @ jax.nn.softplus(w1 @ z + b1) + b2)

  def robertson(z, rates):
    a, b, c = z / 2
    slow, fast, back = rates
    first, second = back * b * c - slow * a, fast * b**2
    return 1e-8 * jnp.stack([first, -first - second, second])

  # A batch of contractions, of factors between 0.1 and 0.97.
  size, width = 128, 64
  orthogonal = np.linalg.qr(normal((width, width)))[0]
  scale, shift = np.linspace(0.1, 0.97, size), 0.1 * normal((size, width))
  cell = (orthogonal, scale, shift)
  return {
    'geometric': Problem(
      lambda z, ratio: ratio * z,
      np.array([[1, 0.4, -0.2]]),
      np.array([0.9, 0.99, 0.999]),
      solution=np.zeros(3),
      cap=10_000,
    ),
    'sine': Problem(
      sine, np.array([[0.6, 0, -0.1, 0.7, 0.5]]), np.ones(5), solution=np.zeros(5)
    ),
    'cosine': Problem(
      lambda z, shift: jnp.cos(z) + shift,
      np.array([[0.3, np.pi / 4]]),
      np.array([0, np.pi / 2]),
    ),
    'rotation': Problem(
      rotation, uniform(size=(1, 14)), (angles, centre), centre, cap=400, history=10
    ),
    'affine': Problem(
      lambda z, params: params[0] @ z + params[1],
      np.zeros((1, 200)),
      (symmetric, uniform(size=200)),
    ),
    'exponential': Problem(lambda z, rate: jnp.exp(-rate * z), half, np.ones(())),
    'network': Problem(
      network,
      half,
      tuple(
        uniform(-1, 1, shape) / np.sqrt(fan_in)
        for shape, fan_in in [((8, 28), 28), ((8,), 28), ((28, 8), 8), ((28,), 8)]
      ),
    ),
    'midpoint': Problem(
      lambda z, matrix: matrix @ z / 16, half, normal((28, 28)), np.zeros(28)
    ),
    'robertson': Problem(
      robertson, np.ones((1, 3)), np.array([0.04, 3e7, 1e4]), np.zeros(3)
    ),
    'batch': Problem(
      lambda z, p: jnp.tanh(p[1] * (p[0] @ z) + p[2]),
      np.zeros((size, width), np.float32),
      jax.tree.map(np.float32, cell),
      axes=(None, 0, 0),
      cap=400,
      tol=1e-4,
    ),
  }


@jax.enable_x64(True)
def _reference(problem: Problem) -> tuple[np.ndarray, jax.Array, Any]:
  """Solutions, weights of a loss that is linear in them, and its gradient."""
  start, params = jax.tree.map(np.float64, (problem.start, problem.params))
  eye = np.eye(start.shape[1])

  @jax.jit
  def jacobians(z):
    return jax.vmap(jax.jacfwd(problem.map), (0, problem.axes))(z, params)

  z = (
    start
    if problem.solution is None
    else np.broadcast_to(problem.solution, start.shape)
  )
  for _ in range(20 if problem.solution is None else 0):
    residual = problem.batched(z, params) - z
    z = z + np.linalg.solve(eye - jacobians(z), residual[..., None])[..., 0]
  assert _residual(problem, z) < 1e-12
  weights = np.random.default_rng(1).standard_normal(z.shape)
  transposed = np.swapaxes(eye - jacobians(z), 1, 2)
  adjoint = np.linalg.solve(transposed, weights[..., None])[..., 0]
  _, pull = jax.vjp(lambda params: problem.batched(z, params), params)
  return z, weights, pull(adjoint)[0]


@jax.enable_x64(True)
def _residual(problem: Problem, z) -> float:
  """The largest of the batch, in float64."""
  z, params = jax.tree.map(np.float64, (z, problem.params))
  return float(np.linalg.norm(problem.batched(z, params) - z, axis=1).max())


# Solvers: from a problem, the function from start and parameters to the solution.


def _one_by_one(problem: Problem, solve) -> Callable:
  """Of a solver of one example; a batch of one is solved without `vmap`."""
  if len(problem.start) == 1:
    return lambda z, params: solve(z[0], params)[None]
  return jax.vmap(solve, (0, problem.axes))


def _ours(method: str, problem: Problem) -> Callable:
  options = {'history': problem.history} if method == 'anderson' else {}
  solver = getattr(solvers, method)(**options)

  def run(z, params):
    settings = dict(max_steps=problem.cap, tol=problem.tol, stop='abs')
    return fixed_point(problem.batched, z, params, solver=solver, **settings).value

  return run


def _jaxopt(method: str, problem: Problem) -> Callable:
  common = dict(maxiter=problem.cap, tol=problem.tol)
  match method:
    case 'FixedPointIteration':
      solver = jaxopt.FixedPointIteration(problem.map, **common)
    case 'AndersonAcceleration':  # The ridge is that of their tests.
      history = problem.history
      solver = jaxopt.AndersonAcceleration(problem.map, history, ridge=1e-6, **common)
    case 'Broyden':  # Starts with Picard's step, as their test of an affine map.
      root = lambda z, params: problem.map(z, params) - z  # noqa: E731
      solver = jaxopt.Broyden(root, gamma=-1, **common)
  return _one_by_one(problem, lambda *args: solver.run(*args).params)


def _optimistix(method: str, problem: Problem) -> Callable:
  import optimistix

  # Of one absolute tolerance, their criterion is the norm of the step.
  norm = optimistix.two_norm
  solver = getattr(optimistix, method)(rtol=0.0, atol=problem.tol, norm=norm)

  def run(z, params):
    settings = dict(args=params, max_steps=problem.cap, throw=False)
    return optimistix.fixed_point(problem.map, solver, z, **settings).value

  return _one_by_one(problem, run)


SIDES = {'jdyn': _ours, 'jaxopt': _jaxopt, 'optimistix': _optimistix}
# What is compared: ours, and theirs of the same kind.
PAIRS = (
  ('jdyn picard', 'jaxopt FixedPointIteration'),
  ('jdyn picard', 'optimistix FixedPointIteration'),
  ('jdyn anderson', 'jaxopt AndersonAcceleration'),
  ('jdyn broyden', 'jaxopt Broyden'),
  ('jdyn broyden', 'optimistix Newton'),
  ('jdyn broyden', 'optimistix Chord'),
)

# Counting: an identity that counts how often it, or its derivative, is run.

_COUNTS = collections.Counter()
_tally = Primitive('tally')
_tally.def_abstract_eval(lambda x, **_: x)


def _count(x, *, kind, size):
  def count(_):
    _COUNTS[kind] += size
    return np.float32(0)

  # What it adds depends on x, so that no compiler moves it out of a loop.
  first = x.ravel()[0].astype(np.float32)
  zero = jax.pure_callback(count, jax.ShapeDtypeStruct((), np.float32), first)
  return x + zero.astype(x.dtype)


def _forward(primals, tangents, *, kind, size):
  (x,), (tangent,) = primals, tangents
  image = _tally.bind(x, kind=kind, size=size)
  return image, _product(tangent, kind=kind, size=size)


def _product(x, *_, kind, size):
  del kind
  zero = isinstance(x, ad.Zero)
  return x if zero else _tally.bind(x, kind='products', size=size)


def _mapped(args, axes, *, kind, size):
  (x,), (axis,) = args, axes
  return _tally.bind(x, kind=kind, size=size * x.shape[axis]), axis


mlir.register_lowering(_tally, mlir.lower_fun(_count, multiple_results=False))
ad.primitive_jvps[_tally] = _forward
ad.primitive_transposes[_tally] = lambda *args, **options: [_product(*args, **options)]
batching.primitive_batchers[_tally] = _mapped


def counted(problem: Problem) -> Problem:
  """The same problem; each evaluation for each example counts."""

  def tallied(z, params):
    return _tally.bind(problem.map(z, params), kind='evaluations', size=1)

  return dataclasses.replace(problem, map=tallied)


def counts(function: Callable, *args) -> collections.Counter:
  """What a call of the function has run."""
  _COUNTS.clear()
  jax.block_until_ready(jax.jit(function)(*args))
  jax.effects_barrier()
  return _COUNTS.copy()


# Measuring.


def _with_gradient(run: Callable, weights) -> Callable:
  def loss(params, z):
    return jnp.vdot(weights.astype(z.dtype), run(z, params))

  return lambda z, params: jax.value_and_grad(loss)(params, z)


def measure(problem: Problem, names: Iterable[str], rounds: int) -> dict[str, dict]:
  """The figures of each solver on a problem, by its name."""
  solution, weights, gradient = _reference(problem)
  args = jax.tree.map(jnp.asarray, (problem.start, problem.params))
  found, calls = {}, {}
  for name in names:
    side, method = name.split()
    run = SIDES[side](method, problem)
    tallied = SIDES[side](method, counted(problem))
    forward, both = jax.jit(run), jax.jit(_with_gradient(run, weights))
    value = np.asarray(forward(*args))
    residual = _residual(problem, value)
    error = float(np.abs(value - solution).max())
    products = counts(_with_gradient(tallied, weights), *args)['products']
    found[name] = {
      'evaluations': counts(tallied, *args)['evaluations'] / len(value),
      'residual': residual,
      'solved': residual <= problem.tol and error < MAX_ERROR,
      'error': error,
      'products': products / len(value),
      'gradient error': _distance(both(*args)[1], gradient),
    }
    calls |= {(name, 'forward'): forward, (name, 'gradient'): both}
  for (name, figure), times in _take_turns(calls, args, rounds).items():
    found[name][figure] = 1e3 * statistics.median(times)
    found[name][f'{figure}, best'] = 1e3 * min(times)
  return found


def _distance(tree, expected) -> float:
  """The largest; relative to the largest entry of its array where that is above 1."""
  pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True)
  return max(
    float(np.abs(a - b).max() / np.maximum(np.abs(b).max(), 1)) for a, b in pairs
  )


def _take_turns(calls: dict, args, rounds: int) -> dict[Any, list[float]]:
  """Seconds of each call, round by round; a short one is repeated within a round."""
  repeats = {
    key: max(1, int(2e-3 / _seconds(call, args, 3))) for key, call in calls.items()
  }
  times = collections.defaultdict(list)
  for _, (key, call) in itertools.product(range(rounds), calls.items()):
    times[key].append(_seconds(call, args, repeats[key]))
  return times


def _seconds(call, args, repeat: int) -> float:
  start = time.perf_counter()
  for _ in range(repeat):
    jax.block_until_ready(call(*args))
  return (time.perf_counter() - start) / repeat


# Showing.


def show(name: str, problem: Problem, found: dict[str, dict]) -> None:
  """Prints the table of a problem; a star marks what is not solved."""
  batch, width = problem.start.shape
  kind = f'{batch} x {width}, {problem.start.dtype}, residual {problem.tol:.0e}'
  print(f'\n{name} ({kind}, at most {problem.cap} evaluations)')
  print(f'{"":33}' + ''.join(f'{figure:>15}' for figure in FIGURES))
  for solver, figures in found.items():
    star = ' ' if figures['solved'] else '*'
    cells = (f'{figures[key]:>15{digits}}' for key, (_, digits) in FIGURES.items())
    print(f'{solver:32}{star}' + ''.join(cells))


def compare(name: str, found: dict[str, dict], versions) -> list[dict]:
  """The rows of a problem: ours, with theirs as the baseline."""
  rows = []
  for ours, theirs in PAIRS:
    if theirs not in found:
      continue
    for figure, (unit, _) in FIGURES.items():
      value, other = (_finite(found[side][figure]) for side in (ours, theirs))
      counted = figure not in ('residual', 'error', 'gradient error')
      ratio = other / value if counted and value and other is not None else None
      rows.append(
        row(
          f'fixed_point {name}: {ours} against {theirs}, {figure}',
          value,
          unit,
          other,
          ratio,
          versions,
          solved=found[ours]['solved'],
          baseline_solved=found[theirs]['solved'],
        )
      )
  return rows


def _finite(x: float) -> float | None:
  return x if math.isfinite(x) else None


def summarise(results: dict[str, dict]) -> None:
  """Prints geometric means over the problems that both sides of a pair solve."""
  figures = ('evaluations', 'forward, best', 'products', 'gradient, best')
  print('\nTheirs over ours, geometric mean over what both solve')
  print(f'{"":48}{"problems":>10}' + ''.join(f'{figure:>15}' for figure in figures))
  for ours, theirs in PAIRS:
    both = [
      (found[ours], found[theirs])
      for found in results.values()
      if theirs in found and found[ours]['solved'] and found[theirs]['solved']
    ]
    if not both:
      continue
    means = (
      math.exp(statistics.mean(math.log(b[figure] / a[figure]) for a, b in both))
      for figure in figures
    )
    cells = ''.join(f'{mean:>14.2f}x' for mean in means)
    print(f'{f"{ours} : {theirs}":48}{len(both):>10}{cells}')


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--rounds', type=int, default=30)
  parser.add_argument('--only', nargs='+', default=(), help='names of problems')
  parser.add_argument('--json', type=Path, help='where to write the rows')
  args = parser.parse_args()
  jax.config.update('jax_platforms', 'cpu')
  # What optimistix cannot solve is shown as such, and ends nothing.
  os.environ['EQX_ON_ERROR'] = 'nan'
  versions = {'jaxopt': importlib.metadata.version('jaxopt')}
  try:
    importlib.import_module('optimistix')
    versions['optimistix'] = importlib.metadata.version('optimistix')
  except ModuleNotFoundError:
    print('optimistix is not installed, and so not measured.')
  print(f'{device_name()}; load {os.getloadavg()[0]:.1f}; {versions}')
  names = [
    name
    for name in dict.fromkeys(sum(zip(*PAIRS, strict=True), ()))
    if name.split()[0] in ('jdyn', *versions)
  ]
  present = float('optimistix' in versions)
  rows = [row('fixed_point: optimistix measured', present, '', versions=versions)]
  results = {}
  for name, problem in _problems().items():
    if name in args.only or not args.only:
      # Under 64 bits, optimistix does not solve in 32.
      with jax.enable_x64(problem.start.dtype == np.float64):
        results[name] = measure(problem, names, args.rounds)
      show(name, problem, results[name])
      rows += compare(name, results[name], versions)
  summarise(results)
  if args.json:
    write_rows(args.json, rows)


if __name__ == '__main__':
  main()
