"""Fixed points: each example by itself, gradients, transformations and memory."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jdyn.ops import solvers
from jdyn.ops.fixed_point import (
  Criterion,
  Detached,
  Implicit,
  Phantom,
  Unrolled,
  fixed_point,
  solve,
)
from tests.ops import problems
from tests.ops.problems import OVERFLOWING, PROBLEMS, UNDEFINED

pytestmark = pytest.mark.usefixtures('compile_fast')

f = functools.partial(problems.apply, xp=jnp)
SOLVERS = {
  'picard': solvers.picard(),
  'anderson': solvers.anderson(),
  'broyden': solvers.broyden(),
}
FAILING = {'overflowing': OVERFLOWING, 'undefined': UNDEFINED}


@pytest.fixture
def double():
  with jax.enable_x64(True):
    yield


def stack(names, dtype=np.float64):
  return problems.stack([(PROBLEMS | FAILING)[name] for name in names], dtype)


def run(z0, params, **options):
  solution = jax.jit(lambda *args: fixed_point(f, *args, **options))(z0, params)
  return jax.tree.map(np.asarray, solution)


def assert_equal(got, expected, **tolerance):
  """Bit for bit, or within a tolerance."""
  assert jax.tree.structure(got) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    assert a.dtype == b.dtype
    if tolerance:
      np.testing.assert_allclose(a, b, **tolerance)
    else:
      np.testing.assert_array_equal(a, b)


def rows(tree, chosen):
  """Those examples of a solution."""
  chosen = np.asarray(chosen)
  trace = tree.trace[:, chosen]
  rest = jax.tree.map(lambda x: x[chosen], dataclasses.replace(tree, trace=None))
  return dataclasses.replace(rest, trace=trace)


# Each example by itself.

GOOD = ('symmetric', 'cosine', 'tanh', 'rotation', 'diverging', 'at_the_solution')


@pytest.mark.parametrize('name', SOLVERS)
def test_what_the_neighbours_do_changes_nothing(name):
  """Not a bit, whether they overflow, are undefined or take longer."""
  options = dict(solver=SOLVERS[name], tol=1e-5)
  solution = jax.jit(lambda *args: fixed_point(f, *args, **options))
  found = [
    solution(*stack([*GOOD, *neighbours], np.float32))
    for neighbours in (
      ('overflowing', 'undefined'),
      ('undefined', 'almost_singular'),
      ('zero', 'zero'),
    )
  ]
  kept = [rows(s, range(len(GOOD))) for s in found]
  assert_equal(kept[0], kept[1])
  assert_equal(kept[0], kept[2])
  assert found[0].steps[:6].max() < 30 or name == 'picard'


@pytest.mark.usefixtures('double')
@pytest.mark.parametrize('name', SOLVERS)
def test_alone_as_in_a_batch(name):
  """So what has converged does not move while others go on."""
  options = dict(solver=SOLVERS[name], tol=1e-5, max_steps=40)
  solution = jax.jit(lambda *args: fixed_point(f, *args, **options))
  together = solution(*stack(PROBLEMS))
  assert len(set(together.steps.tolist())) > 3
  for row, problem in enumerate(PROBLEMS):
    alone = solution(*stack([problem]))
    np.testing.assert_array_equal(alone.steps[0], together.steps[row], problem)
    np.testing.assert_allclose(alone.value[0], together.value[row], 1e-6, 1e-9)


@pytest.mark.usefixtures('double')
def test_few_steps():
  """One evaluation, or two; `value` is the last, and `trace` has all of them."""
  z0, params = stack(['tanh', 'cosine'])
  image = functools.partial(problems.apply, params=params, xp=np)
  for max_steps, iterate in ((1, z0), (2, image(z0))):
    solution = run(z0, params, max_steps=max_steps, solver=SOLVERS['picard'])
    np.testing.assert_allclose(solution.iterate, iterate)
    np.testing.assert_allclose(solution.value, image(iterate))
    assert solution.trace.shape == (max_steps, 2)
    assert_equal(solution.trace[-1], solution.residual)
    assert_equal(solution.steps, np.full(2, max_steps, np.float32))
    assert not solution.converged.any()


def test_tolerance_zero_uses_all_steps():
  solution = run(*stack(['tanh', 'zero'], np.float32), tol=0.0, max_steps=50)
  assert_equal(solution.steps, np.full(2, 50, np.float32))
  assert not solution.converged.any()
  assert_equal(solution.residual, solution.trace.min(axis=0))


@pytest.mark.parametrize('stop', ['rel', 'abs'])
def test_divergence_keeps_the_best_iterate(stop):
  """The relative residual falls all the way to infinity, where the norms overflow."""
  z0, params = stack(['diverging', 'tanh'], np.float32)
  for max_steps in (20, 120):
    solution = run(
      z0, params, solver=solvers.picard(), max_steps=max_steps, tol=1e-4, stop=stop
    )
    assert_equal(solution.converged, np.array([False, True]))
    assert_equal(solution.iterate[0], z0[0])
    np.testing.assert_allclose(solution.value[0], params['shift'][0], rtol=1e-6)
  assert solution.steps[0] < 100
  assert np.isinf(solution.trace[-1, 0])


def test_which_iterate_is_best():
  """The one that converged, though another was nearer; none whose size overflows."""
  z0 = np.zeros((1, 2), np.float32)

  def plain(*images):
    """Picard's iteration from 0 to these images, one after the other."""
    bounds = [0.0, *images]

    def step(z, _):
      index = jnp.searchsorted(jnp.array(bounds[:-1]), z, side='right') - 1
      return jnp.array(images)[index]

    return jax.jit(lambda z: fixed_point(step, z, None, solver=SOLVERS['picard']))(z0)

  solution = plain(1e-3, 1000.0, 1000.5)
  assert solution.converged.all()
  assert_equal(solution.iterate, np.full_like(z0, 1000))
  solution = plain(1e19, 1.5e19, 1.5001e19)
  assert_equal(solution.iterate, z0)
  assert_equal(solution.residual, np.ones(1, np.float32))


@pytest.mark.usefixtures('double')
@pytest.mark.parametrize('stop', ['rel', 'abs'])
def test_what_is_not_finite_keeps_the_last_finite_iterate(stop):
  z0, params = stack(['undefined', 'symmetric', 'undefined'])
  z0[2, 0] = -1.0  # Undefined from the start.
  solution = run(z0, params, solver=solvers.picard(), stop=stop)
  assert_equal(solution.converged, np.array([False, False, False]))
  assert_equal(solution.steps, np.array([2, 30, 1], np.float32))
  np.testing.assert_allclose(solution.value[0], [np.log(0.5), 0, 0, 0])
  assert_equal(solution.value[2], z0[2])
  assert np.isinf(solution.residual[2])
  assert_equal(np.isfinite(solution.trace[:, 0]), np.arange(30) < 1)


def run_together(names, max_steps):
  z0, params = stack(names)
  criterion = Criterion(max_steps, 1e-6, together=True)
  together = jax.jit(
    lambda x: solve(lambda x: f(x, params), x, SOLVERS['picard'], criterion)
  )
  return z0, params, together(z0)


@pytest.mark.usefixtures('double')
def test_together():
  """One criterion for the batch; what one example does, all do."""
  x, params, solution = run_together(['tanh', 'cosine', 'non_normal'], 60)
  trace = []
  while not trace or trace[-1] >= 1e-6:
    fx = problems.apply(x, params, np)
    trace.append(np.linalg.norm(fx - x) / np.linalg.norm(fx))
    x = fx
  assert_equal(solution.steps, np.full(3, len(trace), np.float32))
  trace = np.pad(trace, (0, 60 - len(trace)), 'edge')
  np.testing.assert_allclose(solution.trace, np.stack([trace] * 3, axis=1), rtol=1e-6)
  np.testing.assert_allclose(solution.value, x, rtol=1e-9)


@pytest.mark.usefixtures('double')
def test_together_keeps_the_least_residual():
  """As DEQ fusion does: relative, it falls while the iteration diverges."""
  _, _, solution = run_together(['diverging'], 20)
  assert_equal(solution.residual, solution.trace.min(axis=0))
  assert solution.residual[0] == solution.trace[-1, 0]


# Gradients.

LINEAR = (
  'symmetric',
  'non_normal',
  'rotation',
  'expanding_rotation',
  'nearly_singular',
  'diverging',
  'at_the_solution',
)
EXACT = dict(solver=solvers.anderson(), tol=1e-12, max_steps=60)


def cotangents(size):
  return np.random.default_rng(3).normal(size=(size, problems.WIDTH))


def gradients(names, adjoint, weights=None, **options):
  """Of a weighted sum of the solutions, in the matrices and shifts."""
  z0, params = stack(names)
  weights = cotangents(len(names)) if weights is None else weights

  def loss(matrix, shift):
    p = params | {'matrix': matrix, 'shift': shift}
    return jnp.vdot(
      weights, fixed_point(f, z0, p, adjoint=adjoint, **EXACT | options).value
    )

  return jax.jit(jax.grad(loss, (0, 1)))(params['matrix'], params['shift'])


def closed_form(names, weights):
  matrices, shifts = [], []
  for name, weight in zip(names, weights, strict=True):
    problem = PROBLEMS[name]
    adjoint = np.linalg.solve(np.eye(problems.WIDTH) - problem.matrix.T, weight)
    matrices.append(np.outer(adjoint, problem.solution))
    shifts.append(adjoint)
  return np.stack(matrices), np.stack(shifts)


@pytest.mark.usefixtures('double')
@pytest.mark.parametrize('name', SOLVERS)
def test_implicit_gradients_of_linear_problems(name):
  """`(I - A)^-T g`, also where plain iteration of the problem diverges."""
  names = ('non_normal', 'at_the_solution') if name == 'picard' else LINEAR
  adjoint = Implicit(SOLVERS[name], Criterion(400, 1e-11))
  got = gradients(names, adjoint)
  for a, b in zip(got, closed_form(names, cotangents(len(names))), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


def repeat(z, params, steps):
  return jax.lax.fori_loop(0, steps, lambda _, z: f(z, params), z)


@pytest.mark.usefixtures('double')
@pytest.mark.parametrize('name', SOLVERS)
def test_gradients_of_nonlinear_problems(name):
  """All ways equal plain automatic differentiation of plain iteration."""
  z0, params = stack(['tanh', 'cosine'])
  weights, solver = cotangents(2), SOLVERS[name]
  variables = {k: params[k] for k in ('matrix', 'shift')}

  def gradient(way):
    return jax.grad(lambda v: jnp.vdot(weights, way(z0, params | v)))(variables)

  def by(adjoint):
    options = dict(solver=solver, tol=1e-11, max_steps=80, adjoint=adjoint)
    return lambda *args: fixed_point(f, *args, **options).value

  ways = {
    'repeat': lambda *args: repeat(*args, 80),
    'implicit': by(Implicit(solver, Criterion(80, 1e-11))),
    'unrolled': by(Unrolled()),
  }
  found = jax.jit(lambda: {k: gradient(way) for k, way in ways.items()})()
  expected = found.pop('repeat')
  for way in found.values():
    assert_equal(way, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.usefixtures('double')
def test_finite_differences_and_higher_orders():
  """Forward mode and both ways to second derivatives, through the implicit ones."""
  z0, params = stack(['tanh', 'diverging', 'cosine'])
  params['maps'][1] = problems.MAPS.index('tanh')  # No longer linear.
  variables = {k: params[k] for k in ('matrix', 'shift')}
  rng = np.random.default_rng(5)
  draw = functools.partial(jax.tree.map, lambda x: rng.normal(size=x.shape))
  along, across = draw(variables), draw(variables)
  weights = cotangents(3)

  def loss(v):
    options = dict(solver=SOLVERS['broyden'], tol=1e-12, max_steps=60)
    adjoint = Implicit(SOLVERS['broyden'], Criterion(60, 1e-12))
    solution = fixed_point(f, z0, params | v, adjoint=adjoint, **options)
    return jnp.vdot(weights, jnp.sin(solution.value))

  def dot(a, b):
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, a, b)))

  def central(g, v, step=1e-5):
    def at(shift):
      return g(jax.tree.map(lambda x, d: x + shift * d, v, along))

    return (at(step) - at(-step)) / (2 * step)

  def slope(v):
    return dot(jax.grad(loss)(v), across)

  @jax.jit
  def derivatives(v):
    first = {
      'differences': central(loss, v),
      'reverse': dot(jax.grad(loss)(v), along),
      'forward': jax.jvp(loss, (v,), (along,))[1],
    }
    second = {
      'differences': central(slope, v),
      'forward over reverse': jax.jvp(slope, (v,), (along,))[1],
      'reverse over reverse': dot(jax.grad(slope)(v), along),
    }
    return first, second

  for order in derivatives(variables):
    expected = order['differences']
    assert abs(expected) > 0.01
    for value in order.values():
      np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.usefixtures('double')
def test_phantom_steps():
  """One is the Jacobian-free gradient; many approach the implicit one."""
  weights = cotangents(1)
  z0, params = stack(['tanh'])
  rough = dict(solver=solvers.picard(), tol=1e-2)
  value = run(z0, params, **rough).value
  image = problems.apply(value, params, np)
  for damping in (1.0, 0.5):
    got = gradients(['tanh'], Phantom(damping=damping), **rough)
    slope = weights * (1 - image**2) * damping
    np.testing.assert_allclose(got[1], slope, rtol=1e-9)
    np.testing.assert_allclose(got[0], slope[:, :, None] * value[:, None], rtol=1e-9)
  gradient = functools.partial(gradients, ['tanh'], solver=solvers.picard())
  exact = gradient(Implicit(solvers.picard(), Criterion(60, 1e-12)))[0]
  errors = [np.linalg.norm(gradient(Phantom(n))[0] - exact) for n in (1, 8)]
  assert errors[0] > 1000 * errors[1]


@pytest.mark.usefixtures('double')
def test_unrolled_gradients_are_those_of_the_steps_taken():
  """Also far from the solution; and they are finite where nothing moves."""
  z0, params = stack(['tanh', 'cosine'])
  options = dict(solver=solvers.picard(), max_steps=4, tol=0.0)
  weights = cotangents(2)
  expected = jax.jit(jax.grad(lambda p: jnp.vdot(weights, repeat(z0, params | p, 4))))(
    {k: params[k] for k in ('matrix', 'shift')}
  )
  for adjoint in (Unrolled(), Unrolled(remat=True)):
    got = gradients(['tanh', 'cosine'], adjoint, **options)
    assert_equal(got, (expected['matrix'], expected['shift']), rtol=1e-9)


@pytest.mark.usefixtures('double')
@pytest.mark.parametrize('name', SOLVERS)
def test_unrolled_gradients_of_what_stands_still_are_finite(name):
  """A residual of 0 is divided by, and has no derivative."""
  names = ('at_the_solution', 'zero', 'tanh')
  for gradient in gradients(names, Unrolled(), solver=SOLVERS[name], max_steps=15):
    assert np.isfinite(gradient).all()


ADJOINTS = {
  'implicit': Implicit(),
  'phantom': Phantom(2),
  'unrolled': Unrolled(),
  'detached': Detached(),
}


@pytest.mark.parametrize('name', ADJOINTS)
def test_what_has_no_gradient(name):
  """The start, and all diagnostics; and without an adjoint, everything."""
  z0, params = stack(['tanh', 'cosine'], np.float32)

  def solution(z0, shift):
    return fixed_point(f, z0, params | {'shift': shift}, adjoint=ADJOINTS[name])

  def summed(*args):
    found = solution(*args)
    rest = found.residual, found.trace, found.iterate
    return found.value.sum(), sum(x.sum() for x in rest)

  @jax.jit
  def gradients(*args):
    pull = jax.vjp(summed, *args)[1]
    return pull((1.0, 0.0)), pull((0.0, 1.0))

  (start, shift), rest = gradients(z0, params['shift'])
  for gradient in (start, *rest):
    np.testing.assert_array_equal(gradient, 0)
  assert (np.abs(shift).max() == 0) == (name == 'detached')


@pytest.mark.usefixtures('double')
def test_a_warm_start_saves_steps_and_changes_no_gradient():
  names = ('tanh', 'symmetric', 'cosine')
  z0, params = stack(names)
  near = run(z0, params | {'shift': params['shift'] * 1.001}).value

  def loss(shift, start):
    solution = fixed_point(f, start, params | {'shift': shift}, tol=1e-9, max_steps=60)
    return jnp.vdot(cotangents(3), solution.value), solution.steps

  gradient = jax.jit(jax.grad(loss, has_aux=True))
  cold, cold_steps = gradient(params['shift'], z0)
  warm, warm_steps = gradient(params['shift'], near)
  np.testing.assert_allclose(warm, cold, rtol=1e-6)
  assert (warm_steps <= cold_steps).all()
  assert warm_steps.sum() < cold_steps.sum()


@pytest.mark.usefixtures('double')
def test_gradients_reach_what_the_map_closes_over():
  """Through the loop's closure too; integers and keys may be among it."""
  z0, params = stack(['tanh', 'cosine'])
  key = jax.random.key(0)

  def cell(z, p, key):
    return f(z * jax.random.bernoulli(key, 0.8, z.shape), p)

  def loss(way):
    def value(shift, key):
      p = params | {'shift': shift}
      if way == 'closure':
        return fixed_point(lambda z, _: cell(z, p, key), z0, None, **EXACT).value.sum()
      return fixed_point(lambda z, a: cell(z, *a), z0, (p, key), **EXACT).value.sum()

    return value

  def plain(shift, key):
    p = params | {'shift': shift}
    return jax.lax.fori_loop(0, 60, lambda _, z: cell(z, p, key), z0).sum()

  ways = {'closure': loss('closure'), 'argument': loss('argument'), 'plain': plain}
  found = jax.jit(
    lambda *args: {name: jax.grad(way)(*args) for name, way in ways.items()}
  )(params['shift'], key)
  np.testing.assert_allclose(found['closure'], found['plain'], rtol=1e-6)
  np.testing.assert_allclose(found['argument'], found['plain'], rtol=1e-6)


@pytest.mark.parametrize('stop', ['rel', 'abs'])
def test_the_adjoint_has_no_scale(stop):
  """Of the loss: the default adjoint criterion is relative whatever the other is."""
  z0, params = stack(['non_normal', 'tanh'], np.float32)
  weights = cotangents(2).astype(np.float32)

  @jax.jit
  def gradient(scale):
    def loss(shift):
      p = params | {'shift': shift}
      solution = fixed_point(f, z0, p, tol=1e-5, max_steps=60, stop=stop)
      return jnp.vdot(weights * scale, solution.value)

    return jax.grad(loss)(params['shift'])

  expected = gradient(np.float32(1))
  exact = closed_form(['non_normal'], weights[:1])[1]
  np.testing.assert_allclose(expected[:1], exact, rtol=1e-3)
  for scale in (1e-12, 1e12):
    got = gradient(np.float32(scale))
    np.testing.assert_allclose(got / np.float32(scale), expected, rtol=1e-4)


@pytest.mark.usefixtures('double')
def test_no_cotangent_no_gradient():
  """Of an example; and what others do, not finite, changes nothing."""
  names = ('symmetric', 'tanh', 'overflowing', 'undefined')
  weights = cotangents(4)
  weights[[1, 2]] = 0
  got = gradients(names, None, weights)
  expected = closed_form(['symmetric'], weights[:1])
  for a, b in zip(got, expected, strict=True):
    np.testing.assert_array_equal(a[1:3], 0)
    np.testing.assert_allclose(a[:1], b, rtol=1e-6)


@pytest.mark.usefixtures('double')
def test_an_adjoint_that_does_not_converge_uses_its_best_iterate():
  """Here the first, `g`, whose image is `g + J^T g`."""
  adjoint = Implicit(solvers.picard(), Criterion(30, 1e-6))
  matrix, weights = PROBLEMS['diverging'].matrix, cotangents(1)
  once = dict(solver=solvers.picard(), max_steps=1)
  _, got = gradients(['diverging'], adjoint, **once)
  np.testing.assert_allclose(got, weights + weights @ matrix, rtol=1e-9)
  _, got = gradients(['diverging'], dataclasses.replace(adjoint, refine=False), **once)
  np.testing.assert_allclose(got, weights, rtol=1e-9)


@pytest.mark.parametrize('name', ['implicit', 'phantom'])
def test_a_failing_example_spoils_no_gradient_of_what_all_share(name):
  """Provided that the loss leaves it out, as its flag allows."""
  adjoint = {'implicit': Implicit(SOLVERS['picard']), 'phantom': Phantom()}[name]

  def gradient(names):
    z0, params = stack(names, np.float32)

    def loss(scale):
      p = params | {'shift': params['shift'] * scale}
      options = dict(solver=SOLVERS['picard'], adjoint=adjoint)
      solution = fixed_point(f, z0, p, **options)
      return jnp.where(solution.converged[:, None], solution.value, 0).sum()

    return jax.jit(jax.grad(loss))(np.float32(1))

  assert np.isfinite(gradient(['tanh']))
  np.testing.assert_allclose(
    gradient(['overflowing', 'tanh']), gradient(['tanh']), rtol=1e-6
  )


@pytest.mark.usefixtures('double')
def test_the_adjoint_changes_no_value():
  z0, params = stack(['tanh', 'symmetric'])
  options = dict(solver=SOLVERS['picard'], max_steps=20)
  expected = run(z0, params, **options, adjoint=Detached()).value
  for adjoint in ADJOINTS.values():
    got = run(z0, params, **options, adjoint=adjoint).value
    np.testing.assert_allclose(got, expected, rtol=1e-14)


# Transformations.


def loss(matrix, shift, maps, weights, **options):
  """Sum over the examples of one device, which share a matrix."""
  matrix = jnp.broadcast_to(matrix, (len(shift), *matrix.shape))
  params = {'matrix': matrix, 'shift': shift, 'maps': maps}
  options = dict(tol=1e-6, max_steps=40) | options
  solution = fixed_point(f, jnp.zeros(shift.shape, shift.dtype), params, **options)
  return jnp.vdot(weights, solution.value), solution


def batch(dtype=np.float32):
  """Arguments of `loss`: eight examples."""
  _, params = stack(['tanh', 'cosine'] * 4, dtype)
  noise = np.random.default_rng(7).normal(size=(8, 4))
  arrays = PROBLEMS['tanh'].matrix, params['shift'] + noise, cotangents(8)
  matrix, shift, weights = (x.astype(dtype) for x in arrays)
  return matrix, shift, params['maps'], weights


@pytest.mark.usefixtures('double')
def test_vmap_over_seeds_and_problems():
  """As one by one, in values, steps and gradients."""
  matrix, *data = batch(np.float64)
  seeds = np.stack([matrix, matrix / 2, matrix * 1.5])
  data = [x.reshape(2, 4, *x.shape[1:]) for x in data]
  gradient = jax.grad(loss, (0, 1), has_aux=True)
  over_problems = jax.vmap(gradient, (None, 0, 0, 0))
  mapped = jax.jit(jax.vmap(over_problems, (0, None, None, None)))(seeds, *data)
  single = jax.jit(gradient)
  assert len(np.unique(mapped[1].steps)) > 2
  for seed in range(3):
    for problem in range(2):
      one = single(seeds[seed], *(x[problem] for x in data))
      got = jax.tree.map(lambda x, i=seed, j=problem: x[i, j], mapped)
      assert_equal(got, one, rtol=1e-6, atol=1e-9)


def loops(function, *args):
  """What the `while` loops of a function carry."""
  found = []

  def walk(jaxpr):
    for eqn in jaxpr.eqns:
      if eqn.primitive.name == 'while':
        found.append([v.aval for v in eqn.outvars])
      for value in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, 'jaxpr')):
        if hasattr(inner := getattr(value, 'jaxpr', value), 'eqns'):
          walk(inner)

  walk(jax.make_jaxpr(function)(*args).jaxpr)
  return found


def test_vmap_shares_one_loop():
  """Were it one per problem, each round would copy all that the loop carries."""
  matrix, *data = batch()
  mapped = jax.vmap(lambda matrix: loss(matrix, *data)[1].value)
  (carried,) = loops(mapped, np.stack([matrix, matrix]))
  assert [aval.shape for aval in carried if aval.dtype == jnp.int32] == [()]


def test_the_loop_carries_no_derivatives():
  matrix, *data = batch()
  value = lambda matrix: loss(matrix, *data)[0]  # noqa: E731
  (plain,) = loops(value, matrix)
  forward, *adjoint = loops(lambda m: jax.jvp(value, (m,), (m,)), matrix)
  assert forward == plain
  assert all(carried == plain for carried in adjoint)


def pmapped(gradient, matrix, *data):
  data = [x.reshape(4, 2, *x.shape[1:]) for x in data]
  mean = jax.pmap(
    lambda *args: jax.lax.psum(gradient(*args), 'data'), 'data', in_axes=(None, 0, 0, 0)
  )
  return mean(matrix, *data)[0]


def sharded(local, check_vma):
  mesh = jax.make_mesh((4,), ('data',), axis_types=(AxisType.Auto,))
  specs = dict(in_specs=(P(), *[P('data')] * 3), out_specs=P())
  return jax.jit(jax.shard_map(local, mesh=mesh, check_vma=check_vma, **specs))


def unchecked(gradient, *args):
  return sharded(lambda *args: jax.lax.psum(gradient(*args), 'data'), False)(*args)


def partitioned(gradient, matrix, *data):
  mesh = jax.make_mesh((4,), ('data',), axis_types=(AxisType.Auto,))
  data = [jax.device_put(x, NamedSharding(mesh, P('data'))) for x in data]
  return jax.jit(gradient)(matrix, *data)


@pytest.mark.parametrize('how', [pmapped, unchecked, partitioned])
def test_devices(how):
  """Four of them give the gradient of one; each stops by itself."""
  gradient = jax.grad(lambda *args: loss(*args)[0])
  expected = jax.jit(gradient)(*batch())
  np.testing.assert_allclose(how(gradient, *batch()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['anderson', 'broyden', 'unrolled', 'phantom'])
def test_shard_map_checks_what_varies(name):
  """Gradients of what all devices share come out summed, also under `vmap`."""
  solver = SOLVERS.get(name, SOLVERS['picard'])
  adjoint = ADJOINTS.get(name, Implicit(solver, Criterion(40, 1e-6)))

  def total(matrix, *data):
    value = functools.partial(loss, solver=solver, adjoint=adjoint)
    return jax.vmap(lambda m: value(m, *data)[0])(matrix).sum()

  def local(*args):
    return jax.grad(lambda *args: jax.lax.psum(total(*args), 'data'))(*args)

  matrix, *data = batch()
  matrices = np.stack([matrix, matrix / 2])
  expected = jax.jit(jax.grad(total))(matrices, *data)
  got = sharded(local, True)(matrices, *data)
  np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


# Trees, types and memory.


@pytest.mark.usefixtures('double')
def test_trees():
  """As one vector: the residual is over all that belongs to an example."""
  z0, params = stack(['tanh', 'symmetric', 'cosine'])

  def split(z):
    return {'a': z[:, :1], 'b': (z[:, 1:].reshape(-1, 1, 3),)}

  def join(tree):
    return jnp.concatenate([tree['a'], tree['b'][0].reshape(-1, 3)], axis=1)

  flat = run(z0, params, tol=1e-8)
  tree = jax.jit(
    lambda z: fixed_point(lambda z, p: split(f(join(z), p)), z, params, tol=1e-8)
  )(split(z0))
  assert_equal(tree.value, split(flat.value), rtol=1e-9)
  assert_equal(tree.iterate, split(flat.iterate), rtol=1e-9, atol=1e-12)
  assert_equal(tree.trace, flat.trace, rtol=1e-6, atol=1e-12)
  assert_equal(tree.steps, flat.steps)


@pytest.mark.usefixtures('double')
@pytest.mark.parametrize('name', [*SOLVERS, 'unrolled'])
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_types_are_kept(name, dtype):
  options = {'adjoint': Unrolled()} if name == 'unrolled' else {'solver': SOLVERS[name]}
  solve = functools.partial(fixed_point, f, **options)
  solution = jax.eval_shape(solve, *stack(['tanh'], dtype))
  kinds = {name: x.dtype for name, x in vars(solution).items()}
  assert kinds.pop('steps') == np.float32
  assert kinds.pop('converged') == np.bool_
  assert set(kinds.values()) == {np.dtype(dtype)}


def test_half_precision_inside():
  """Refused as a state; the map may compute in it, to what tolerance it can."""
  z0, params = stack(['tanh', 'cosine'], np.float32)

  def half(z, p):
    p = p | {name: p[name].astype(jnp.bfloat16) for name in ('matrix', 'shift')}
    return f(z.astype(jnp.bfloat16), p).astype(jnp.float32)

  solution = jax.jit(lambda *args: fixed_point(half, *args, tol=2e-2))(z0, params)
  assert solution.converged.all()
  expected = [PROBLEMS[name].solution for name in ('tanh', 'cosine')]
  np.testing.assert_allclose(solution.value, expected, rtol=3e-2, atol=1e-2)
  with pytest.raises(ValueError, match='all float32 or all float64, but it is bfloat'):
    fixed_point(lambda z, p: z, z0.astype(jnp.bfloat16), None)


def test_memory_does_not_grow_with_the_steps():
  """That of implicit gradients; the trace is kept only where it is used."""
  size, width = 32, 64
  spec = jax.ShapeDtypeStruct((width, width), jnp.float32)

  def temporaries(max_steps, adjoint, solver=SOLVERS['picard'], traced=False):
    def loss(matrix):
      solution = fixed_point(
        lambda z, m: jnp.tanh(z @ m + 1),
        jnp.zeros((size, width)),
        matrix,
        solver=solver,
        max_steps=max_steps,
        adjoint=adjoint,
      )
      return solution.value.sum(), solution.trace if traced else None

    compiled = jax.jit(jax.grad(loss, has_aux=True)).lower(spec).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  few, many = (temporaries(n, Implicit(), solvers.anderson()) for n in (10, 200))
  assert few == many
  plain = Implicit(SOLVERS['picard'])
  few, many = (temporaries(n, plain, traced=True) for n in (10, 200))
  assert many - few <= 190 * size * 4 + 4096
  unrolled = temporaries(200, Unrolled())
  assert unrolled > 200 * size * width * 4
  assert temporaries(200, Unrolled(remat=True)) < 0.9 * unrolled


ONES = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: fixed_point(f, ONES, None, max_steps=0), 'max_steps=0 must be at least 1'),
    (lambda: fixed_point(f, ONES, None, tol=-1.0), 'tol=-1.0 must be at least 0'),
    (lambda: fixed_point(f, ONES, None, tol=np.nan), 'tol=nan'),
    (lambda: fixed_point(f, ONES, None, stop='l2'), "stop='l2'; expected 'rel' or"),
    (lambda: Criterion(floor=-1.0), 'floor=-1.0 must be at least 0'),
    (lambda: Phantom(0), 'steps=0 must be at least 1'),
    (lambda: Phantom(damping=0.0), r'damping=0.0 must lie in \(0, 1\]'),
    (lambda: fixed_point(lambda z, _: z[:1], ONES, None), r'\[2, 3\].* to .*\[1, 3\]'),
    (lambda: fixed_point(lambda z, _: (z,), ONES, None), 'map z0 to its like'),
    (lambda: fixed_point(lambda z, _: z > 0, ONES, None), 'float32.* to bool'),
    (lambda: fixed_point(f, {}, None), 'z0 must be arrays'),
    (lambda: fixed_point(f, 1.0, None), r'one B.* is float32\[\]'),
    (lambda: fixed_point(f, ONES.astype(int), None), 'but it is int'),
    (lambda: fixed_point(f, (ONES, ONES[:1]), None), r'one B.*\[2, 3\].*\[1, 3\]'),
  ],
)
def test_misuse_is_named(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_an_adjoint_is_none_of_its_names():
  with pytest.raises(TypeError, match=r"adjoint='implicit'; expected Implicit\(\)"):
    jax.eval_shape(
      lambda z: fixed_point(lambda z, _: z / 2, z, None, adjoint='implicit'), ONES
    )
