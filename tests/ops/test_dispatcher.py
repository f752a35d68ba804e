"""`PathDispatcher` under every policy against a NumPy loop, and what it reads."""

import time
import types

import jax
import jax.export  # Not loaded by `import jax`.
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdyn.ops import dispatcher as module
from jdyn.ops.dispatcher import POLICIES, input_shape
from jdyn.ops.path_dispatcher import PathDispatcher
from jdyn.ops.timing import interleave

pytestmark = pytest.mark.usefixtures('compile_fast')

NAMES = ('cheap', 'costly', 'other')
READS = [('cheap',), ('cheap', 'costly'), ('other',)]


def route(variables, inputs, extra):
  """Path 0 below the first threshold, path 2 above the second."""
  score = inputs['cheap']['x'] @ variables['gate']
  chosen = jnp.int32(score > extra[0]) + (score > extra[1])
  return chosen, {'score': score, 'twice': 2 * inputs['cheap']['x']}


def reuse(variables, inputs, shared):
  return {'y': shared['twice'], 'n': inputs['cheap']['n']}


def joint(variables, inputs, shared):
  return {'y': inputs['costly'] @ variables['w'], 'n': inputs['cheap']['n'] + 1}


def scored(variables, inputs, shared):
  y = inputs['other'] * shared['score'][:, None]
  return {'y': y, 'n': jnp.zeros(len(y), jnp.int32)}


VARIABLES = {
  'gate': np.array([1.0, 0, 0], np.float32),
  'w': np.arange(12, dtype=np.float32).reshape(4, 3) / 10,
}
EXTRA = np.array([-0.5, 0.5], np.float32)


def inputs_for(chosen):
  """Inputs that the route sends where `chosen` says."""
  rng = np.random.default_rng(len(chosen))
  size = len(chosen)
  x = rng.normal(size=(size, 3)).astype(np.float32)
  x[:, 0] = np.asarray(chosen) - 1
  return {
    'cheap': {'x': x, 'n': rng.integers(0, 99, size).astype(np.int32)},
    'costly': rng.normal(size=(size, 4)).astype(np.float32),
    'other': rng.normal(size=(size, 3)).astype(np.float32),
  }


def loop(inputs, chosen):
  y, n = [], []
  for i, k in enumerate(chosen):
    x = inputs['cheap']['x'][i]
    y.append(
      [2 * x, inputs['costly'][i] @ VARIABLES['w'], inputs['other'][i] * x[0]][k]
    )
    n.append([inputs['cheap']['n'][i], inputs['cheap']['n'][i] + 1, 0][k])
  return {'y': np.stack(y), 'n': np.stack(n)}


def assert_right(result, inputs, chosen):
  got, shared, outputs = result
  np.testing.assert_array_equal(got, chosen)
  assert got.dtype == np.int32
  np.testing.assert_allclose(shared['score'], inputs['cheap']['x'][:, 0], atol=1e-6)
  for name, expected in loop(inputs, chosen).items():
    assert outputs[name].shape == expected.shape
    np.testing.assert_allclose(outputs[name], expected, atol=1e-5)
  assert outputs['n'].dtype == np.int32


class Counting:
  """A reader that notes what it was asked for."""

  def __init__(self, inputs):
    self._inputs, self.size = inputs, len(inputs['costly'])
    self.log = []

  def read(self, names, rows):
    names = sorted(self._inputs) if names is None else names
    self.log += [(name, None if rows is None else rows.tolist()) for name in names]
    return {
      name: jax.tree.map(
        lambda leaf: leaf if rows is None else leaf[rows], self._inputs[name]
      )
      for name in names
    }


DISPATCHER = PathDispatcher(route, [reuse, joint, scored], ('cheap',), READS)


@st.composite
def compositions(draw):
  used = draw(st.sets(st.integers(0, 2), min_size=1))
  size = draw(st.sampled_from((1, 6)))
  return draw(st.lists(st.sampled_from(sorted(used)), min_size=size, max_size=size))


@pytest.mark.parametrize('kind', ['numpy', 'device', 'reader'])
@pytest.mark.parametrize('policy', [p for p in POLICIES if p != 'auto'])
@settings(deadline=None, max_examples=30)
@given(chosen=compositions())
def test_every_policy_equals_a_loop_over_examples(policy, kind, chosen):
  if policy == 'switch':
    chosen = chosen[:1]
  inputs = inputs_for(chosen)
  given_as = {'numpy': dict, 'device': jax.device_put, 'reader': Counting}[kind](inputs)
  assert_right(DISPATCHER(VARIABLES, given_as, EXTRA, policy), inputs, chosen)


@pytest.mark.parametrize('policy', ['dense', 'ladder', 'buckets', 'each'])
def test_everything_is_given_where_no_reads_are_named(policy):
  dispatcher = PathDispatcher(route, [reuse, joint, scored])
  chosen = [0, 2, 1, 1, 0, 2]
  inputs = inputs_for(chosen)
  for given_as in (inputs, Counting(inputs)):
    result = dispatcher(VARIABLES, given_as, EXTRA, policy)
    assert_right(result, inputs, chosen)


@pytest.mark.parametrize('policy', ['dense', 'ladder', 'buckets', 'each'])
def test_forced_paths_replace_the_routed_ones(policy):
  inputs = inputs_for([0, 0, 0, 1, 1, 1])
  forced = np.array([1, -1, 2, 0, -1, 2], np.int32)
  result = DISPATCHER(VARIABLES, inputs, EXTRA, policy, forced)
  assert_right(result, inputs, [1, 0, 2, 0, 1, 2])


@pytest.mark.parametrize('policy', ['buckets', 'auto'])
def test_a_costly_input_is_read_only_for_rows_that_chose_it(policy):
  reader = Counting(inputs_for([0, 1, 0, 2, 1, 1]))
  DISPATCHER(VARIABLES, reader, EXTRA, policy)
  assert reader.log == [('cheap', None), ('costly', [1, 4, 5]), ('other', [3])]


def test_one_by_one_a_costly_input_is_read_only_for_examples_that_chose_it():
  reader = Counting(inputs_for([0, 1, 0, 2, 1, 1]))
  DISPATCHER(VARIABLES, reader, EXTRA, 'each')
  costly = [('costly', [1]), ('costly', [4]), ('costly', [5])]
  assert reader.log[0] == ('cheap', None)
  assert sorted(reader.log[1:]) == [*costly, ('other', [3])]


def test_nothing_costly_is_read_when_nobody_chose_it():
  reader = Counting(inputs_for([0, 0, 0]))
  DISPATCHER(VARIABLES, reader, EXTRA)
  assert reader.log == [('cheap', None)]


def test_other_policies_read_everything_once():
  reader = Counting(inputs_for([0, 1, 0]))
  DISPATCHER(VARIABLES, reader, EXTRA, 'dense')
  assert reader.log == [(name, None) for name in NAMES]


def test_buckets_run_few_row_counts():
  """The rows that a path is traced with are the rungs, whatever the counts."""
  traced = []

  def path(variables, inputs, shared):
    traced.append(len(inputs['x']))
    return inputs['x']

  run = PathDispatcher(
    lambda v, x, e: (x['x'].astype(jnp.int32), ()), [path, lambda v, x, s: x['x']]
  )
  for count in range(33):
    x = np.arange(32, dtype=np.float32) >= count
    _, _, got = run((), {'x': x.astype(np.float32)}, (), 'buckets')
    np.testing.assert_array_equal(got, x)
  assert sorted(traced) == [1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 28, 32, 32]


def chain(length):
  """A path of `length` matrix products."""

  def path(variables, inputs, shared):
    x = inputs['x']
    for _ in range(length):
      x = jnp.tanh(x @ variables)
    return x

  return path


def two_paths():
  return PathDispatcher(
    lambda v, x, e: (jnp.int32(x['x'][:, 0] > 0), ()), [chain(1), chain(9)]
  )


def test_auto_measures_once_per_shape(monkeypatch):
  monkeypatch.setattr(module, '_BUDGET', 0)
  run, variables = two_paths(), jnp.eye(64)
  for size, policies, mixes in (
    (1, {'dense', 'switch', 'buckets'}, {'path 0', 'path 1'}),
    (8, {'dense', 'ladder', 'buckets', 'each'}, {'path 0', 'path 1', 'even'}),
  ):
    inputs = {'x': np.linspace(-1, 1, size * 64, dtype=np.float32).reshape(size, 64)}
    run(variables, inputs, ())
    (structure, leaves), found = list(run.measured.items())[-1]
    assert structure == jax.tree.structure(inputs)
    assert leaves == (((size, 64), np.dtype('float32'), False),)
    assert found.policy in policies
    assert set(found.seconds) == set(found.slowdown) == policies
    assert all(set(times) == mixes for times in found.seconds.values())
    assert all(t > 0 for times in found.seconds.values() for t in times.values())
    chosen, _, _ = run(variables, inputs, ())
    assert run.measured[structure, leaves] is found
    np.testing.assert_array_equal(chosen, inputs['x'][:, 0] > 0)
  assert len(run.measured) == 2


@pytest.mark.parametrize(
  ('ladder', 'buckets', 'each', 'expected'),
  [
    ((1, 4, 2), (2, 4, 3), (5, 5, 5), 'ladder'),  # Two fit; ladder has the lower mean.
    ((2, 4, 3), (1, 4.04, 2), (5, 5, 5), 'buckets'),  # A loss within the tolerance.
    ((1, 4.2, 1), (3, 4, 3), (4, 4, 4), 'buckets'),  # The lowest mean, but a loss.
    ((1, 4, 2), (2, 4, 3), (1, 3, 2), 'each'),
    ((1, 4.2, 1), (1, 1, 4.2), (5, 1, 1), 'dense'),
    ((4.04, 4.04, 4.04), (5, 5, 5), (5, 5, 5), 'dense'),
  ],
)
def test_auto_never_takes_a_policy_that_loses_at_some_mix(
  monkeypatch, ladder, buckets, each, expected
):
  fixed = {'dense': (4, 4, 4), 'ladder': ladder, 'buckets': buckets, 'each': each}

  def times(calls, rounds, **_):
    mixes = ('path 0', 'path 1', 'even')
    disturbed = np.arange(rounds) % 4 == 0  # One round in four, a hundred times as long
    return {
      (policy, mix): fixed[policy][mixes.index(mix)]
      * np.where(disturbed & (policy != 'dense'), 100, 1)
      for policy, mix in calls
    }

  monkeypatch.setattr(module, 'interleave', times)
  found = two_paths().measure((), {'x': np.zeros((4, 2))}, ())
  assert found.policy == expected
  assert found.slowdown['ladder'] == max(ladder) / 4


@pytest.mark.parametrize(
  ('size', 'one_by_one'), [(1, False), (128, True), (129, False)]
)
def test_auto_tries_few_examples_one_by_one(monkeypatch, size, one_by_one):
  monkeypatch.setattr(
    module, 'interleave', lambda calls, **_: dict.fromkeys(calls, 1.0)
  )
  found = two_paths().measure((), {'x': np.zeros((size, 2))}, ())
  assert ('each' in found.seconds) == one_by_one


def test_an_exported_program_keeps_the_branch():
  program = jax.jit(DISPATCHER.program('switch'))
  inputs = inputs_for([1])
  exported = jax.export.export(program)(VARIABLES, inputs, EXTRA)
  assert 'stablehlo.case' in exported.mlir_module()
  assert_right(exported.call(VARIABLES, inputs, EXTRA), inputs, [1])


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda x: DISPATCHER(VARIABLES, x, EXTRA, 'best'), "Unknown policy 'best'.*auto"),
    (lambda x: DISPATCHER(VARIABLES, x, EXTRA, 'switch'), 'use ladder'),
    (lambda x: DISPATCHER(VARIABLES, {}, EXTRA, 'dense'), 'no example'),
    (
      lambda x: DISPATCHER(VARIABLES, {'cheap': x['cheap']}, EXTRA, 'dense'),
      r"lack \['costly', 'other'\].*have \['cheap'\]",
    ),
    (lambda x: DISPATCHER.program('buckets'), "'buckets' is not one program"),
    (lambda x: PathDispatcher(route, [reuse], None, READS), '1 paths and 3 path_reads'),
  ],
)
def test_misuse_is_named(call, message):
  with pytest.raises(ValueError, match=message):
    call(inputs_for([0, 1]))


def test_interleave_times_every_call_in_turn():
  turns = []

  def waits(name, seconds):
    def call():
      turns.append(name)
      time.sleep(seconds)

    return call

  calls = {'a': waits('a', 0.002), 'b': waits('b', 0.006)}
  seconds = interleave(calls, 4, warmup=1, least=0)
  assert turns == list('aabb' + 'abba' * 2)  # Warm-up and repeats, then four rounds.
  assert {name: len(values) for name, values in seconds.items()} == {'a': 4, 'b': 4}
  assert seconds['a'].min() >= 0.002
  assert np.median(seconds['b'] / seconds['a']) > 1.5


def test_interleave_repeats_short_calls_and_keeps_to_its_budget():
  calls = []
  seconds = interleave({'a': lambda: calls.append(0)}, 100, least=2e-4, budget=0)
  assert len(seconds['a']) == 3
  assert len(calls) > 3 * 20
  assert seconds['a'].max() < 2e-4
  with pytest.raises(ValueError, match='rounds=0'):
    interleave({'a': dict}, 0)


def test_times_are_of_readers_that_read_the_same():
  """What is measured of a batch does not hold where more of it must be read."""

  def reader(names, files=()):
    return types.SimpleNamespace(size=3, names=names, files=files)

  few, more = reader(('a',), ('a',)), reader(('a', 'b'), ('a',))
  shapes = map(input_shape, (few, more, reader(('a',))))
  assert len({*shapes}) == 3
  assert input_shape(few) == input_shape(reader(('a',), ('a',)))
