"""Solvers against slow NumPy ones, closed forms and jaxopt."""

import functools

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
import pytest

from jdyn.ops import solvers
from jdyn.ops.fixed_point import fixed_point
from tests.ops import problems
from tests.ops.problems import OVERFLOWING, PROBLEMS, UNDEFINED

pytestmark = pytest.mark.usefixtures('compile_fast')

ALL = PROBLEMS | {'overflowing': OVERFLOWING, 'undefined': UNDEFINED}
RIDGE = 1e-6
MAX_STEPS = 60
f = functools.partial(problems.apply, xp=jnp)


@pytest.fixture
def double():
  with jax.enable_x64(True):
    yield


def run(solver, names=ALL, dtype=np.float64, **options):
  z0, params = problems.stack([ALL[name] for name in names], dtype)
  solution = jax.jit(lambda *args: fixed_point(f, *args, solver=solver, **options))
  return jax.tree.map(np.asarray, solution(z0, params))


# Slow solvers: from all iterates and images of one problem, the next iterate.


def picard(xs, fxs, damping=1.0):
  return (1 - damping) * xs[-1] + damping * fxs[-1]


def anderson(xs, fxs, history, mixing=1.0, ridge=RIDGE, scaled=True):
  """By least squares in the differences to the last residual."""
  x, fx = np.array(xs[-history:]).T, np.array(fxs[-history:]).T
  sizes = np.linalg.norm(fx - x, axis=0) if scaled else np.ones(x.shape[1])
  rows = np.vstack([fx - x, np.sqrt(ridge) * np.diag(sizes)])
  others = np.linalg.lstsq(rows[:, :-1] - rows[:, -1:], -rows[:, -1])[0]
  weights = np.append(others, 1 - others.sum())
  return (1 - mixing) * x @ weights + mixing * fx @ weights


def broyden(xs, fxs, history):
  """With the whole matrix, made anew of the steps since the last restart."""
  residuals = np.array(fxs) - np.array(xs)
  inverse = -np.eye(len(xs[0]))
  known = len(xs) - 1
  for k in range(max(known - 1, 0) // history * history, known):
    dx, dr = xs[k + 1] - xs[k], residuals[k + 1] - residuals[k]
    row = dx @ inverse
    inverse = inverse + np.outer(dx - inverse @ dr, row) / (row @ dr)
  return xs[-1] - inverse @ residuals[-1]


def image(problem, x):
  _, params = problems.stack([problem])
  return problems.apply(x[None], params, np)[0]


def slow(problem, propose, tol, stop):
  """What `fixed_point` promises, for one problem: its fields by name."""
  xs, fxs, distances, residuals = [problem.start], [], [], []
  while True:
    fxs.append(image(problem, xs[-1]))
    distance = np.linalg.norm(fxs[-1] - xs[-1])
    size = np.linalg.norm(fxs[-1]) + 1e-20 if stop == 'rel' else 1
    distances.append(distance)
    residuals.append(distance / size)
    done = residuals[-1] < tol
    if done or not np.isfinite(residuals[-1]) or len(xs) == MAX_STEPS:
      break
    xs.append(propose(xs, fxs))
  best = len(xs) - 1 if done else np.nanargmin(distances)
  return {
    'distance': distances[best],
    'steps': len(xs),
    'converged': done,
    'trace': np.pad(residuals, (0, MAX_STEPS - len(xs)), 'edge'),
  }


EPS = np.finfo(np.float64).eps
# Of one solver: ours, the slow one, and how it stops.
SLOW = {
  name: (ours, functools.partial(theirs, **options), stop)
  for name, ours, theirs, options, stop in [
    ('picard', solvers.picard(), picard, {}, 'rel'),
    ('damped', solvers.picard(0.5), picard, dict(damping=0.5), 'abs'),
    (
      'anderson',
      solvers.anderson(ridge=RIDGE / EPS),
      anderson,
      dict(history=5),
      'rel',
    ),
    (
      'mixed',
      solvers.anderson(3, 0.7, RIDGE / EPS),
      anderson,
      dict(history=3, mixing=0.7),
      'abs',
    ),
    (
      'absolute_ridge',
      solvers.anderson(6, ridge=1e-4, scaled=False),
      anderson,
      dict(history=6, ridge=1e-4, scaled=False),
      'rel',
    ),
    ('broyden', solvers.broyden(), broyden, dict(history=10), 'abs'),
    ('short_broyden', solvers.broyden(2), broyden, dict(history=2), 'rel'),
  ]
}


@pytest.mark.usefixtures('double')
@pytest.mark.filterwarnings('ignore:.*encountered in:RuntimeWarning')
@pytest.mark.parametrize('name', SLOW)
def test_equals_a_slow_solver(name):
  """Steps, traces and best iterates, of all problems in one batch."""
  solver, propose, stop = SLOW[name]
  got = run(solver, max_steps=MAX_STEPS, tol=2e-8, stop=stop)
  sizes = np.linalg.norm(got.value, axis=1) + 1e-20 if stop == 'rel' else 1
  distances = np.linalg.norm(got.value - got.iterate, axis=1)
  for row, (problem, definition) in enumerate(ALL.items()):
    if problem == 'overflowing' and propose.func is not picard:
      continue  # Weights from 1 to 1e-60 are beyond the slow solver.
    expected = slow(definition, propose, 2e-8, stop)
    assert got.steps[row] == expected['steps'], problem
    assert got.converged[row] == expected['converged'], problem
    trace = got.trace[:, row]
    finite = np.isfinite(expected['trace'])
    np.testing.assert_array_equal(np.isfinite(trace), finite)
    np.testing.assert_allclose(
      trace[finite], expected['trace'][finite], rtol=1e-3, atol=1e-8, err_msg=problem
    )
    np.testing.assert_allclose(
      distances[row], expected['distance'], rtol=1e-3, atol=1e-8, err_msg=problem
    )
    np.testing.assert_allclose(
      got.value[row], image(definition, got.iterate[row]), rtol=1e-12, err_msg=problem
    )
  np.testing.assert_allclose(got.residual, distances / sizes, rtol=1e-6)


# Steps to 1e-6 in float64; None where 160 are not enough.
TABLE = ('picard', 'damped', 'anderson', 'broyden')
STEPS = {
  'symmetric': (111, None, 6, 9),
  'non_normal': (32, 74, 6, 9),
  'cosine': (36, 10, 7, 6),
  'tanh': (14, 29, 8, 8),
  'rotation': (None, 107, 4, 5),
  'expanding_rotation': (None, 26, 4, 5),
  'nearly_singular': (None, None, 6, 9),
  'almost_singular': (None, None, 6, 9),
  'diverging': (None, None, 6, 9),
  'at_the_solution': (1, 1, 1, 1),
  'zero': (1, 1, 1, 1),
  'towards_zero': (87, None, 7, 17),
}


@pytest.mark.usefixtures('double')
@pytest.mark.parametrize('name', TABLE)
def test_solves(name):
  """In the steps of the table, and as exactly as the residual allows; or says not."""
  solver = solvers.anderson() if name == 'anderson' else SLOW[name][0]
  got = run(solver, PROBLEMS, max_steps=160, tol=1e-6)
  for row, (problem, definition) in enumerate(PROBLEMS.items()):
    steps = STEPS[problem][TABLE.index(name)]
    assert got.converged[row] == (steps is not None), problem
    assert got.steps[row] <= (steps or 160), problem
    error = np.linalg.norm(got.iterate[row] - definition.solution)
    distance = np.linalg.norm(got.value[row] - got.iterate[row])
    if steps is not None and set(definition.maps) == {'linear'}:
      least = np.linalg.svd(np.eye(problems.WIDTH) - definition.matrix)[1].min()
      assert error <= distance / least + 1e-12, problem
    elif steps is not None:
      assert error <= 3e-6, problem


def chandrasekhar(dtype, size=40):
  """The H-equation of radiative transfer, the closer to singular the nearer 1."""
  angles = (np.arange(size) + 0.5) / size
  kernel = angles[:, None] / (angles[:, None] + angles) / (2 * size)
  albedos = np.array([[0.5], [0.9], [0.99], [0.995]])
  return np.ones((4, size), dtype), (albedos.astype(dtype), kernel.astype(dtype))


def h_equation(z, params):
  albedos, kernel = params
  return 1 / (1 - albedos * (z @ kernel.T))


@pytest.mark.parametrize('history', [2, 5, 10])
@pytest.mark.parametrize('name', ['anderson', 'broyden'])
def test_float32_reaches_its_rounding_error(name, history):
  """The last residuals are noise, and a Gram matrix of them is nearly singular."""
  z0, params = chandrasekhar(np.float32)
  solver = getattr(solvers, name)(history)
  run = jax.jit(lambda *args: fixed_point(h_equation, *args, tol=3e-7, solver=solver))
  assert run(z0, params).converged.all()


def test_more_history_than_dimensions():
  """The Gram matrix of residuals of one number has rank one."""
  run = jax.jit(
    lambda z: fixed_point(
      lambda z, _: jnp.cos(z), z, None, solver=solvers.anderson(8), tol=1e-6
    )
  )
  solution = run(np.linspace(-1, 1, 5, dtype=np.float32)[:, None])
  assert solution.converged.all()
  np.testing.assert_allclose(solution.value, 0.73908513, rtol=1e-6)


@pytest.mark.parametrize('name', ['anderson', 'broyden'])
def test_steps_do_not_depend_on_the_scale(name):
  """Adjoint problems have the scale of the loss."""
  z0, params = problems.stack([PROBLEMS['symmetric'], PROBLEMS['rotation']], np.float32)
  solver = getattr(solvers, name)()

  def steps(scale):
    scaled = params | {'shift': params['shift'] * scale}
    solution = run(z0, scaled)
    assert solution.converged.all()
    return solution.steps

  run = jax.jit(lambda z, p: fixed_point(f, z, p, solver=solver, tol=1e-5))
  for scale in (1e-12, 1e12):
    np.testing.assert_array_equal(steps(np.float32(scale)), steps(np.float32(1)))


@pytest.mark.parametrize('name', ['anderson', 'broyden'])
def test_products_keep_all_bits(name):
  """By default an accelerator rounds the factors, to 8 bits on TPU."""
  solver = getattr(solvers, name)()
  x = jnp.ones((2, 3))
  jaxpr = jax.make_jaxpr(lambda x: solver.propose(x, x, solver.init(x, x), 1))(x)
  text = jaxpr.pretty_print(use_color=False)
  assert 0 < 2 * text.count('dot_general') == text.count('Precision.HIGHEST')


@pytest.mark.usefixtures('double')
@pytest.mark.parametrize(
  ('name', 'theirs', 'solver'),
  [
    ('tanh', jaxopt.FixedPointIteration, solvers.picard()),
    ('h_equation', jaxopt.AndersonAcceleration, solvers.anderson()),
    ('diverging', jaxopt.Broyden, solvers.broyden()),
  ],
)
def test_equals_jaxopt(name, theirs, solver):
  if name == 'h_equation':
    (z0, params), g = chandrasekhar(np.float64), h_equation
  else:
    (z0, params), g = problems.stack([PROBLEMS[name]]), f

  def root(z, params):
    return g(z, params) - z

  function = root if theirs is jaxopt.Broyden else g
  expected = jax.jit(theirs(function, maxiter=200, tol=1e-9).run)(z0, params)
  got = jax.jit(
    lambda *args: fixed_point(g, *args, solver=solver, tol=1e-10, max_steps=60)
  )(z0, params)
  np.testing.assert_allclose(got.value, expected.params, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: solvers.picard(0.0), r'damping=0.0 must lie in \(0, 1\]'),
    (lambda: solvers.picard(1.5), 'damping=1.5'),
    (lambda: solvers.anderson(0), 'history=0 must be at least 1'),
    (lambda: solvers.anderson(mixing=0.0), 'mixing=0.0 must lie in'),
    (lambda: solvers.anderson(mixing=2.0), 'mixing=2.0'),
    (lambda: solvers.anderson(ridge=0.0), 'ridge=0.0 must be positive'),
    (lambda: solvers.broyden(0), 'history=0'),
  ],
)
def test_misuse_is_named(make, message):
  with pytest.raises(ValueError, match=message):
    make()
