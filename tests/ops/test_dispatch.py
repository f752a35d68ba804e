"""`jdyn.ops.dispatch` against a NumPy loop over examples, and its compiled programs."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jdyn.ops import dispatch

pytestmark = pytest.mark.usefixtures('compile_fast')

TRACED = {'dense': dispatch.dense, 'ladder': dispatch.ladder}


def affine(number):
  """Path `number` on a pytree of several dtypes; outputs are another pytree."""

  def path(operands):
    x, (steps, grid) = operands['x'], operands['rest']
    value = x * (number + 1) + grid.sum(axis=(1, 2))[:, None]
    return {'value': value, 'rest': (steps + number, x[:, 0] > number)}

  return path


def operands_of(size, seed=0):
  rng = np.random.default_rng(seed)
  return {
    'x': rng.normal(size=(size, 3)).astype(np.float32),
    'rest': (
      rng.integers(0, 9, size).astype(np.int32),
      rng.normal(size=(size, 2, 2)).astype(np.float32),
    ),
  }


def loop(chosen, operands):
  """What `affine` paths give, one example at a time, without JAX."""
  values, steps, signs = [], [], []
  for i, k in enumerate(map(int, chosen)):
    x, (step, grid) = operands['x'][i], (leaf[i] for leaf in operands['rest'])
    values.append(x * (k + 1) + grid.sum())
    steps.append(step + k)
    signs.append(x[0] > k)
  return {'value': np.stack(values), 'rest': (np.stack(steps), np.stack(signs))}


def assert_equal(got, expected):
  assert jax.tree.structure(got) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_allclose(a, b, atol=1e-5)


@functools.cache
def compiled(policy, count):
  run = TRACED[policy]
  return jax.jit(lambda c, x: run(c, x, [affine(k) for k in range(count)]))


@st.composite
def compositions(draw):
  """(K, chosen): any mix, with empty paths and all-on-one-path drawn often."""
  count = draw(st.integers(1, 4))
  size = draw(st.sampled_from((1, 3, 7)))
  used = draw(st.sets(st.integers(0, count - 1), min_size=1))
  chosen = draw(st.lists(st.sampled_from(sorted(used)), min_size=size, max_size=size))
  return count, chosen


@pytest.mark.parametrize('policy', TRACED)
@settings(deadline=None, max_examples=60)
@given(compositions())
def test_equals_a_loop_over_examples(policy, composition):
  count, chosen = composition
  operands = operands_of(len(chosen), seed=sum(chosen))
  got = compiled(policy, count)(jnp.asarray(chosen, jnp.int32), operands)
  assert_equal(got, loop(chosen, operands))


@pytest.mark.parametrize('rungs', [(8,), (1, 8), (2, 3, 8), tuple(range(1, 9))])
def test_any_rungs_drop_nothing(rungs):
  run = jax.jit(
    lambda c, x: dispatch.ladder(c, x, [affine(k) for k in range(3)], rungs)
  )
  operands = operands_of(8)
  for chosen in ([2] * 8, [0] * 8, [1, 0, 2, 1, 1, 2, 0, 1], [2, 0, 0, 0, 0, 0, 0, 0]):
    got = run(jnp.asarray(chosen, jnp.int32), operands)
    assert_equal(got, loop(chosen, operands))


@functools.cache
def compiled_prefix(rungs=None):
  return jax.jit(
    lambda count, x: dispatch.prefix(count, x, affine(1), affine(3), rungs)
  )


@pytest.mark.parametrize('rungs', [None, (7,), (2, 3, 7)])
@settings(deadline=None, max_examples=20)
@given(st.integers(-1, 8))
def test_a_prefix_takes_the_path_and_the_others_keep_theirs(rungs, count):
  operands = operands_of(7)
  kept = loop([3] * 7, operands)
  taken = loop([1] * 7, operands)
  split = min(max(count, 0), 7)
  expected = jax.tree.map(
    lambda a, b: np.concatenate([a[:split], b[split:]]), taken, kept
  )
  got = compiled_prefix(rungs)(jnp.int32(count), operands)
  assert_equal(got, expected)


def test_a_prefix_of_one_runs_or_does_not():
  operands = operands_of(1)
  kept, taken = loop([3], operands), loop([1], operands)
  for count, expected in ((0, kept), (1, taken)):
    assert_equal(compiled_prefix()(jnp.int32(count), operands), expected)


@pytest.mark.parametrize(('count', 'rows'), [(0, None), (1, 2), (2, 2), (4, 5), (8, 8)])
def test_a_prefix_runs_once_on_the_smallest_rung(count, rows):
  seen = []

  def path(x):
    jax.debug.callback(lambda x: seen.append(x.shape[0]), x)
    return jnp.sqrt(x)

  # NaN on rows that only fill the rung.
  x = np.where(np.arange(8) < count, 4.0, -1.0).astype(np.float32)
  got = jax.jit(lambda n, x: dispatch.prefix(n, x, path, lambda x: x, (2, 3, 5, 8)))(
    count, x
  )
  np.testing.assert_array_equal(got, np.where(x > 0, 2, -1))
  jax.effects_barrier()
  assert seen == ([] if rows is None else [rows])


def test_switch_takes_the_chosen_branch():
  run = jax.jit(lambda c, x: dispatch.switch(c, x, [affine(k) for k in range(3)]))
  operands = operands_of(1)
  for k in range(3):
    assert_equal(run(jnp.array([k]), operands), loop([k], operands))


@pytest.mark.parametrize('policy', TRACED)
def test_a_number_outside_the_paths_is_clamped(policy):
  operands = operands_of(3)
  got = compiled(policy, 2)(jnp.array([-5, 1, 9], jnp.int32), operands)
  assert_equal(got, loop([0, 1, 1], operands))


@pytest.mark.parametrize('policy', TRACED)
def test_what_a_path_gives_on_rows_of_others_does_not_leak(policy):
  """Path 0 is NaN on rows of path 1: neither filling nor selecting shows it."""
  x = np.array([4.0, -1.0, 9.0, -4.0, -9.0], np.float32)
  paths = [jnp.sqrt, lambda x: jnp.sqrt(-x)]
  got = jax.jit(lambda c, x: TRACED[policy](c, x, paths))(jnp.asarray(x < 0), x)
  np.testing.assert_allclose(got, [2, 1, 3, 2, 3], atol=1e-6)


@pytest.mark.parametrize(
  ('chosen', 'expected'),
  [
    ([1] * 8, {1: 8}),
    ([0, 0, 0, 1, 0, 0, 0, 1], {0: 6, 1: 2}),
    ([0, 1, 1, 1, 0, 0, 1, 1], {0: 3, 1: 5}),
  ],
)
def test_a_path_runs_once_on_the_smallest_rung_and_never_when_empty(chosen, expected):
  seen = {}

  def counting(number):
    def path(x):
      jax.debug.callback(lambda rows: seen.update({number: rows.shape[0]}), x)
      return x + number

    return path

  run = jax.jit(
    lambda c, x: dispatch.ladder(c, x, [counting(0), counting(1)], (2, 3, 5, 6, 8))
  )
  jax.block_until_ready(run(jnp.asarray(chosen), jnp.zeros((8, 2))))
  jax.effects_barrier()
  assert seen == expected


@pytest.mark.parametrize('size', [1, 2, 5, 12, 100, 128, 1000])
def test_default_rungs_hold_every_count_and_waste_under_half(size):
  rungs = dispatch.default_rungs(size)
  assert rungs[0] == 1
  assert rungs[-1] == size
  for count in range(1, size + 1):
    assert min(r for r in rungs if r >= count) < 1.5 * count


@pytest.mark.parametrize('policy', TRACED)
def test_each_device_dispatches_its_own_rows(policy):
  mesh = Mesh(np.array(jax.devices()[:4]), ('data',))
  paths = [affine(k) for k in range(3)]
  chosen = np.array([0, 0, 2, 2, 0, 1, 2, 1, 1, 1, 1, 2], np.int32)
  operands = operands_of(12)
  run = jax.jit(
    jax.shard_map(
      lambda c, x: TRACED[policy](c, x, paths),
      mesh=mesh,
      in_specs=P('data'),
      out_specs=P('data'),
      check_vma=False,
    )
  )
  placed = jax.device_put((chosen, operands), NamedSharding(mesh, P('data')))
  assert_equal(run(*placed), loop(chosen, operands))


def dots(text):
  """{computation: matrix products in it} of a compiled program's text."""
  found, name = {}, None
  for line in text.splitlines():
    if head := re.match(r'(ENTRY )?%?([\w.\-]+) .*\{$', line):
      name = 'ENTRY' if head[1] else head[2]
    elif re.search(r' dot\(|custom-call\(.*matmul|__ynn|__onednn', line):
      found[name] = found.get(name, 0) + 1
  return found


def matmuls(weights):
  return [lambda x, w=w: x @ w for w in weights]


def test_the_compiled_switch_keeps_its_conditional():
  weights = [jnp.ones((64, 64)) * k for k in (1.0, 2.0)]
  args = jnp.zeros((1,), jnp.int32), jnp.ones((1, 64)), weights

  def text(run):
    lowered = jax.jit(lambda c, x, w: run(c, x, matmuls(w))).lower(*args)
    return lowered.compile().as_text()

  switched, everything = text(dispatch.switch), text(dispatch.dense)
  assert switched.count(' conditional(') == 1
  assert 'ENTRY' not in dots(switched)
  assert len(dots(switched)) == 2  # One product in each branch.
  assert everything.count(' conditional(') == 0
  assert sum(dots(everything).values()) == 2


def test_temporaries_hold_no_copies_of_the_weights():
  """4 MB of weights, a batch of 64: one copy per example would be 256 MB."""
  size, width = 64, 1024
  spec = jax.ShapeDtypeStruct
  args = (
    spec((size,), jnp.int32),
    spec((size, width), jnp.float32),
    [spec((width, width), jnp.float32), spec((width, width), jnp.float32)],
  )
  weight_bytes = 4 * width**2

  def temporaries(run):
    return jax.jit(run).lower(*args).compile().memory_analysis().temp_size_in_bytes

  def per_example(c, x, w):
    one = lambda c, x: jax.lax.cond(c > 0, lambda: x @ w[1], lambda: x @ w[0])  # noqa: E731
    return jax.vmap(one)(c, x)

  climbing = temporaries(lambda c, x, w: dispatch.ladder(c, x, matmuls(w)))
  assert climbing < weight_bytes / 2
  assert temporaries(per_example) > size * weight_bytes / 2


@pytest.mark.parametrize(
  ('run', 'message'),
  [
    (lambda c, x: dispatch.switch(c, x, [jnp.sin]), 'one example.*use ladder'),
    (lambda c, x: dispatch.ladder(c, x, [jnp.sin], (1, 2)), 'rungs=.*batch size, 4'),
    (lambda c, x: dispatch.ladder(c, x, [jnp.sin], (3, 2, 4)), 'increase'),
    (lambda c, x: dispatch.ladder(c, x, [jnp.sin], (0, 4)), 'at least 1'),
    (lambda c, x: dispatch.prefix(c[0], x, jnp.sin, jnp.cos, (1, 2)), 'batch size, 4'),
    (lambda c, x: dispatch.prefix(c[0], x, jnp.sin, jnp.isnan), 'path 1 returns'),
    (
      lambda c, x: jax.vmap(lambda n: dispatch.prefix(n, x, jnp.sin, jnp.cos))(c),
      'dispatch under vmap over 4',
    ),
    (lambda c, x: dispatch.dense(c, x, []), 'paths is empty'),
    (lambda c, x: dispatch.dense(c, x, [jnp.sin, jnp.isnan]), 'path 1 returns'),
    (lambda c, x: dispatch.ladder(c, x, [jnp.sum]), 'leading axis must be the batch'),
    (
      lambda c, x: jax.vmap(
        lambda c, x: dispatch.switch(c[None], x[None], [jnp.sin, jnp.cos])
      )(c, x),
      'dispatch under vmap over 4',
    ),
    (
      lambda c, x: jax.vmap(lambda c: dispatch.ladder(c, x, [jnp.sin]))(c[None]),
      'dispatch under vmap over 1',
    ),
  ],
)
def test_misuse_is_named(run, message):
  with pytest.raises(ValueError, match=message):
    run(jnp.zeros((4,), jnp.int32), jnp.ones((4, 2)))
