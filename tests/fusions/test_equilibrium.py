"""Equilibrium fusion: that it converges, to what, and what it says of itself."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jdyn.cost import count_macs
from jdyn.fusions import FUSIONS, Equilibrium
from jdyn.layers.equilibrium import PurifyCombine, ResidualCell, WeightedSum

pytestmark = pytest.mark.usefixtures('compile_fast')

ROWS, WIDTH = 4, 8
NAMES = ('audio', 'text')
BLOCKS = (*NAMES, 'fused')
PROBE = {'probe': jax.random.key(5)}


def features(names=NAMES, shape=(ROWS, WIDTH), seed=0):
  keys = jax.random.split(jax.random.key(seed), len(names))
  return {
    name: jax.random.normal(key, shape) for name, key in zip(names, keys, strict=True)
  }


def variables(module, x, seed=1):
  init = jax.jit(functools.partial(module.init, train=False))
  return init(jax.random.key(seed), x)


@pytest.mark.parametrize(
  ('solver', 'width', 'modalities'),
  [
    ('picard', 300, 2),
    ('anderson', 16, 1),
    ('anderson', 64, 4),
    ('broyden', 300, 4),
  ],
)
def test_every_example_converges_from_the_start(solver, width, modalities):
  """At initialisation, for dense, sparse and one-hot features of any size."""
  normal = features(range(modalities), (16, width))
  kinds = {
    'dense': normal,
    'sparse': {name: jax.nn.relu(x - 1.5) for name, x in normal.items()},
    'one-hot': {name: 1.0 * (x == x.max(1)[:, None]) for name, x in normal.items()},
  }
  x = {
    f'm{name}': jnp.concatenate(
      [scale * kind[name] for kind in kinds.values() for scale in (0.03, 1.0, 30.0)]
    )
    for name in normal
  }
  module = Equilibrium(solver=solver)

  @jax.jit
  @jax.vmap
  def run(key):
    weights = module.init(key, x, train=False)
    return module.apply(weights, x, train=False).aux

  aux = run(jax.random.split(jax.random.key(0), 4))
  for name in (*x, 'fused'):
    assert np.all(aux[f'solver/{name}/converged'] == 1), name
    assert np.max(aux[f'solver/{name}/steps']) <= 15


def _joint_steps(weights, x, count=80):
  """Plain steps of all states at once, so many that nothing changes any more."""
  module = Equilibrium()
  total = WeightedSum().apply({'params': weights['injection']}, x)
  norm = dict(groups=module.groups, epsilon=module.epsilon)
  own = [jax.tree.map(operator.itemgetter(i), weights['cells']) for i in range(len(x))]

  def step(z, _):
    states = {
      name: ResidualCell(**norm).apply({'params': own[i]}, z[name], x[name])
      for i, name in enumerate(sorted(x))
    }
    combine = PurifyCombine(**norm)
    fused = combine.apply({'params': weights['combine']}, z['fused'], total, states)
    return states | {'fused': fused}, None

  start = {name: jnp.zeros_like(total) for name in BLOCKS}
  return jax.lax.scan(step, start, length=count)[0]['fused']


@functools.partial(jax.jit, static_argnums=0)
def _value_and_grad(fuse, weights, x):
  def loss(weights, x):
    value = fuse(weights, x)
    return jnp.sum(jnp.sin(3 * value)), value

  gradient, value = jax.grad(loss, (0, 1), has_aux=True)(weights, x)
  return {'value': value, 'weights': gradient[0], 'inputs': gradient[1]}


@functools.cache
def _joint_problem():
  """Weights, features, and what the joint iteration makes of them, in float64."""
  x, weights = features(), variables(Equilibrium(), features())['params']
  x, weights = jax.tree.map(lambda leaf: leaf.astype(float), (x, weights))
  weights = jax.tree.map(lambda leaf: leaf + 0.03 * jnp.cos(7 * leaf), weights)
  return weights, x, _value_and_grad(_joint_steps, weights, x)


@pytest.mark.parametrize(
  ('options', 'precision'),
  [
    ({}, 1e-8),
    ({'solver': 'picard'}, 1e-8),
    ({'solver': 'broyden', 'history': 40}, 1e-8),
    ({'adjoint': 'phantom', 'adjoint_steps': 8}, 1e-3),
    ({'adjoint': 'unrolled'}, 1e-8),
  ],
)
def test_block_by_block_is_the_joint_solution_with_its_gradient(options, precision):
  tight = dict(max_steps=40, tol=1e-13, adjoint_steps=40, adjoint_tol=1e-13)
  module = Equilibrium(**tight | options)

  def block_by_block(weights, x):
    return module.apply({'params': weights}, x, train=True).value

  with jax.enable_x64(True):
    weights, x, want = _joint_problem()
    got = _value_and_grad(block_by_block, weights, x)
  for (path, a), b in zip(
    jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True
  ):
    name, scale = jax.tree_util.keystr(path), np.abs(b).max()
    assert scale > 1e-6, name
    np.testing.assert_allclose(a, b, rtol=0, atol=precision * scale, err_msg=name)


def test_a_prediction_is_the_same_in_training_and_without_neighbours():
  module, x = Equilibrium(history=2), features()
  weights = variables(module, x)

  @jax.jit
  def run(x):
    first = {name: v[:1] for name, v in x.items()}
    apply = functools.partial(module.apply, weights)
    return apply(x, train=True), apply(x, train=False), apply(first, train=False)

  trained, evaluated, alone = run(x)
  np.testing.assert_array_equal(trained.value, evaluated.value)
  np.testing.assert_allclose(alone.value[0], evaluated.value[0], rtol=1e-5, atol=1e-6)
  for name in BLOCKS:
    key = f'solver/{name}/steps'
    assert alone.aux[key][0] == evaluated.aux[key][0]


def test_a_broken_example_leaves_the_others_alone():
  module, x = Equilibrium(jacobian_probes=1, history=2), features()
  weights = variables(module, x)
  broken = {'audio': x['audio'].at[1, 2].set(jnp.nan), 'text': x['text']}
  others = np.array([0, 2, 3])

  @jax.jit
  def run(x):
    def loss(x):
      fused = module.apply(weights, x, train=True, rngs=PROBE)
      rows = jnp.sum(jnp.sin(fused.value), axis=1) + fused.aux['jacobian']
      return jnp.sum(rows[others]), fused

    return jax.grad(loss, has_aux=True)(x)

  got, want = run(broken), run(x)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_array_equal(a[others], b[others])
  for name, converged in (('audio', 0), ('text', 1), ('fused', 0)):
    assert got[1].aux[f'solver/{name}/converged'][1] == converged


@pytest.mark.parametrize('max_steps', [1, 3, 20])
def test_what_the_solver_did_and_what_it_saved(max_steps):
  module = Equilibrium(solver='picard', max_steps=max_steps)
  x = features()
  x = {name: v.at[0].set(0.0) for name, v in x.items()}  # This one stops first.
  weights = variables(module, x)
  run = jax.jit(functools.partial(module.apply, train=False))
  aux, steps_of_all = run(weights, x).aux, 0
  for name in BLOCKS:
    steps, residual, converged, trace = (
      np.asarray(aux[f'solver/{name}/{key}'])
      for key in ('steps', 'residual', 'converged', 'trace')
    )
    assert trace.shape == (ROWS, max_steps)
    assert np.all((steps >= 1) & (steps <= max_steps))
    np.testing.assert_array_equal(converged, residual < module.tol)
    np.testing.assert_array_equal(converged[steps < max_steps], 1)
    for row, at in enumerate(steps.astype(int)):
      assert residual[row] == trace[row].min()
      assert np.all(trace[row, : at - 1] >= module.tol)
      np.testing.assert_array_equal(trace[row, at:], trace[row, at - 1])
    steps_of_all = steps_of_all + steps
  assert max_steps == 1 or steps_of_all[0] < max(steps_of_all)
  # Both maps are two matrix products.
  cap = max_steps * len(BLOCKS)
  np.testing.assert_array_equal(
    aux['unspent_macs'], (cap - steps_of_all) * 2 * WIDTH**2
  )
  one = {name: v[:1] for name, v in x.items()}
  assert count_macs(run, weights, one) == cap * 2 * WIDTH**2


def test_unspent_macs_are_unknown_where_all_steps_run():
  module = Equilibrium(adjoint='unrolled', max_steps=2)
  fused, _ = module.init_with_output(jax.random.key(0), features(), train=False)
  assert 'unspent_macs' not in fused.aux


def test_the_released_solver_stops_for_the_batch():
  """And what it saved is said in the same way."""
  module = FUSIONS['equilibrium_released'](tol=0.05, stop='rel', max_steps=40)
  x = features()
  weights = variables(module, x)
  for name in ('cell_audio', 'cell_text', 'combine'):  # So that it converges at all.
    weights['params']['map'][name] = jax.tree.map(
      lambda leaf: 0.3 * leaf, weights['params']['map'][name]
    )
  aux = jax.jit(functools.partial(module.apply, train=False))(weights, x).aux
  (steps,) = set(np.asarray(aux['solver/fused/steps']))
  assert 1 < steps < 40
  want = np.full(ROWS, (40 - steps) * len(BLOCKS) * 2 * WIDTH**2)
  np.testing.assert_array_equal(aux['unspent_macs'], want)


def test_the_jacobian_is_computed_on_a_share_of_the_steps_and_weighted_up():
  options = dict(jacobian_probes=2, solver='picard')
  module, some = Equilibrium(**options), Equilibrium(**options, jacobian_share=0.25)
  x = features()
  weights, draws = variables(module, x), 400

  @jax.jit
  def run(keys):
    def size(module, key):
      fused = module.apply(weights, x, train=True, rngs={'probe': key})
      return fused.aux['jacobian']

    evaluated = module.apply(weights, x, train=False).aux['jacobian']
    return *(jax.lax.map(functools.partial(size, m), keys) for m in (module, some)), (
      evaluated
    )

  always, share, evaluated = run(jax.random.split(jax.random.key(0), draws))
  np.testing.assert_array_equal(evaluated, np.zeros(ROWS))
  assert np.all(always > 0)
  # Each of the two problems draws for itself.
  np.testing.assert_allclose(np.mean(share == 0), 0.75**2, atol=0.08)
  mean, deviation = share.mean(axis=0), share.std(axis=0)
  assert np.all(abs(mean - always.mean(axis=0)) < 4 * deviation / draws**0.5)
  assert np.all(4 * deviation / draws**0.5 < 0.5 * mean)


def test_the_penalty_on_the_fused_map_leaves_the_states_alone():
  module, x = Equilibrium(jacobian_probes=1, solver='picard'), features()
  params = variables(module, x)['params']
  other = params | {'combine': jax.tree.map(lambda w: 1.5 * w, params['combine'])}

  @jax.jit
  def gradient(params):
    def size(params):
      fused = module.apply({'params': params}, x, train=True, rngs=PROBE)
      return jnp.sum(fused.aux['jacobian'])

    return jax.grad(size)(params)

  first, second = gradient(params), gradient(other)
  assert np.any(first['combine']['gate']['kernel'])
  for path, leaf in jax.tree.leaves_with_path(first['cells']):
    assert path[0].key == 'norm3' or np.any(leaf), path
  jax.tree.map(np.testing.assert_array_equal, first['cells'], second['cells'])


def test_training_is_the_same_on_four_devices():
  """Probes and their gradient included, for sequences of unequal widths."""
  widths = {'audio': 3, 'text': 5}
  x = {
    name: jax.random.normal(jax.random.key(width), (8, 2, width))
    for name, width in widths.items()
  }
  fields = dict(features=6, groups=2, jacobian_probes=2, solver='picard')
  weights = variables(Equilibrium(**fields), x)
  mesh = jax.make_mesh(
    (4,), ('data',), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4]
  )

  def run(weights, x, axis_name=None):
    module = Equilibrium(**fields, axis_name=axis_name)

    def loss(weights):
      fused = module.apply(weights, x, train=True, rngs=PROBE)
      return jnp.sum(jnp.sin(fused.value)) + jnp.sum(fused.aux['jacobian']), fused

    gradient, fused = jax.grad(loss, has_aux=True)(weights)
    if axis_name:
      gradient = jax.lax.psum(gradient, axis_name)
    return fused, gradient

  sharded = jax.shard_map(
    functools.partial(run, axis_name='data'),
    mesh=mesh,
    in_specs=(P(), P('data')),
    out_specs=(P('data'), P()),
    check_vma=False,
  )
  fused, gradient = jax.jit(run)(weights, x)
  assert fused.value.shape == (8, 2, 6)
  assert fused.aux['jacobian'].shape == (8,)
  assert np.all(np.asarray(fused.aux['jacobian']) > 0)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
    jax.jit(sharded)(weights, x),
    (fused, gradient),
  )


@pytest.mark.parametrize(
  ('name', 'options', 'widths', 'message'),
  [
    ('equilibrium', {}, (8, 4), r"one shape, got .*'audio': \(8,\).*set features"),
    ('equilibrium', {'groups': 3}, (8, 8), 'groups=3'),
    ('equilibrium', {'features': 5, 'groups': 2}, (8, 4), '5 features, .*groups=2'),
    ('equilibrium', {'cell': 'batch_norm'}, (8, 8), "cell='batch_norm'"),
    ('equilibrium', {'solver': 'newton'}, (8, 8), "solver='newton'"),
    ('equilibrium', {'adjoint': 'magic'}, (8, 8), "adjoint='magic'"),
    ('equilibrium', {'max_steps': 0}, (8, 8), 'max_steps=0'),
    ('equilibrium_released', {}, (8, 4), r"one shape, got .*'audio': \(8,\)"),
    ('equilibrium_released', {'groups': 3}, (8, 8), 'groups=3'),
    ('equilibrium_released', {'cell': 'lstm'}, (8, 8), "cell='lstm'"),
    ('equilibrium_released', {'solver': 'picard'}, (8, 8), "solver='picard'"),
    ('equilibrium_released', {'stop': 'mean'}, (8, 8), "stop='mean'"),
  ],
)
def test_what_does_not_fit_is_refused(name, options, widths, message):
  module = FUSIONS[name](**options)
  x = {
    modality: jnp.ones((ROWS, width))
    for modality, width in zip(NAMES, widths, strict=True)
  }

  def run():
    weights = module.init(jax.random.key(0), x, train=False)
    return module.apply(weights, x, train=False)

  with pytest.raises(ValueError, match=message):
    jax.eval_shape(run)
