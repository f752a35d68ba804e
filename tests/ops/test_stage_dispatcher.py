"""`StageDispatcher` under every policy against a NumPy loop, and what it runs."""

import jax
import jax.export  # Not loaded by `import jax`.
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdyn.ops import dispatcher as module
from jdyn.ops.dispatcher import POLICIES
from jdyn.ops.stage_dispatcher import Stage, StageDispatcher

pytestmark = pytest.mark.usefixtures('compile_fast')

SIZE, STAGES = 12, 3  # Of 12 rows not every count is a rung: 2, 3, 5, 6, 8, 9, ...
VARIABLES = np.array([2.0, 3.0, 5.0], np.float32)


def route(variables, inputs, extra):
  """Both streams are halves of the input; the exit comes with it."""
  x, y = inputs['x'][:, :2], inputs['x'][:, 2:]
  return inputs['exit'] + extra, {'sum': x.sum(axis=1)}, (x, {'y': y})


def stage(number, seen=None):
  """The second stream grows by a column, and is NaN where it must not be used."""

  def main(variables, x):
    return x * variables[number] + number

  def join(variables, x, y):
    y = jnp.concatenate([y['y'], y['y'][:, :1] * variables[number]], axis=1)
    if seen is not None:
      jax.debug.callback(lambda y: seen.append((number, y.shape[0])), y)
    return x + jnp.sqrt(y.sum(axis=1, keepdims=True)), {'y': y}

  return Stage(main, join)


def head(variables, found):
  return {'all': jnp.concatenate(found, axis=1), 'scaled': variables[0] * found[-1]}


def inputs_for(exits):
  """Second streams that turn negative behind an example's exit."""
  rng = np.random.default_rng(len(exits))
  x = rng.uniform(1, 2, size=(len(exits), 4)).astype(np.float32)
  return {'x': x, 'exit': np.asarray(exits, np.int32)}


def loop(inputs, exits):
  rows = []
  for given_x, end in zip(inputs['x'], exits, strict=True):
    x, y, found = given_x[:2], given_x[2:], []
    for number in range(STAGES):
      x = x * VARIABLES[number] + number
      if end > number:
        y = np.append(y, y[0] * VARIABLES[number])
        x = x + np.sqrt(y.sum())
      found.append(x)
    rows.append((np.concatenate(found), VARIABLES[0] * x))
  return {
    'all': np.stack([a for a, _ in rows]),
    'scaled': np.stack([b for _, b in rows]),
  }


def assert_right(result, inputs, exits):
  chosen, shared, outputs = result
  np.testing.assert_array_equal(chosen, exits)
  assert chosen.dtype == np.int32
  np.testing.assert_allclose(shared['sum'], inputs['x'][:, :2].sum(axis=1), rtol=1e-6)
  for name, expected in loop(inputs, exits).items():
    np.testing.assert_allclose(outputs[name], expected, rtol=1e-5)


def dispatcher(seen=None):
  return StageDispatcher(route, [stage(number, seen) for number in range(STAGES)], head)


DISPATCHER = dispatcher()


@st.composite
def exits(draw):
  """Any mix, with exits that nobody takes and all at one exit drawn often."""
  used = sorted(draw(st.sets(st.integers(0, STAGES), min_size=1)))
  size = draw(st.sampled_from((1, SIZE)))
  return draw(st.lists(st.sampled_from(used), min_size=size, max_size=size))


@pytest.mark.parametrize('policy', [p for p in POLICIES if p != 'auto'])
@settings(deadline=None, max_examples=40)
@given(exits=exits())
def test_every_policy_equals_a_loop_over_examples(policy, exits):
  if policy == 'switch':
    exits = exits[:1]
  inputs = inputs_for(exits)
  assert_right(DISPATCHER(VARIABLES, inputs, 0, policy), inputs, exits)


@pytest.mark.parametrize('policy', ['dense', 'ladder', 'buckets', 'each'])
def test_forced_exits_replace_the_routed_ones_and_are_clamped(policy):
  inputs = inputs_for([0, 1, 2, 3, 0])
  forced = np.array([3, -1, 9, 0, -1], np.int32)
  result = DISPATCHER(VARIABLES, inputs, 0, policy, forced)
  assert_right(result, inputs, [3, 1, 3, 0, 0])
  assert_right(DISPATCHER(VARIABLES, inputs, 9, policy), inputs, [3] * 5)


@pytest.mark.parametrize('policy', ['ladder', 'buckets'])
@pytest.mark.parametrize(
  ('exits', 'expected'),
  [
    ([0] * 16, []),
    ([1, 0, 3, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2], [(0, 6), (1, 2), (2, 2)]),
    ([2] * 15 + [0], [(0, 16), (1, 16)]),
  ],
)
def test_a_stage_runs_on_the_smallest_rung_that_holds_those_who_go_on(
  policy, exits, expected
):
  seen = []
  inputs = inputs_for(exits)
  result = dispatcher(seen)(VARIABLES, inputs, 0, policy)
  assert_right(result, inputs, exits)
  jax.effects_barrier()
  assert sorted(seen) == expected


def test_one_by_one_a_stage_runs_for_those_who_go_on():
  seen, exits = [], [1, 0, 3, 0, 2]
  inputs = inputs_for(exits)
  assert_right(dispatcher(seen)(VARIABLES, inputs, 0, 'each'), inputs, exits)
  jax.effects_barrier()
  assert sorted(seen) == [(0, 1)] * 3 + [(1, 1)] * 2 + [(2, 1)]


def test_what_is_computed_on_rows_of_others_does_not_leak():
  """The second stream is NaN behind the exit; neither filling nor selecting shows."""
  exits = np.array([0, 2, 0, 0, 0, 1, 0, 0, 3, 0, 2, 0])
  inputs = inputs_for(exits)
  inputs['x'][exits == 0, 2:] = np.nan
  for policy in ('dense', 'ladder', 'buckets', 'each'):
    _, _, outputs = DISPATCHER(VARIABLES, inputs, 0, policy)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(outputs))


@pytest.mark.parametrize('size', [1, 4])
def test_auto_measures_all_ways(monkeypatch, size):
  monkeypatch.setattr(module, '_BUDGET', 0)
  run, inputs = dispatcher(), inputs_for([2, 0, 1, 3][:size])
  assert_right(run(VARIABLES, inputs, 0), inputs, [2, 0, 1, 3][:size])
  (found,) = run.measured.values()
  traced = {'switch'} if size == 1 else {'ladder', 'each'}
  assert set(found.seconds) == {'dense', 'buckets', *traced}
  for times in found.seconds.values():
    assert set(times) >= {f'path {k}' for k in range(STAGES + 1)}


@pytest.mark.parametrize(('policy', 'exits'), [('switch', [2]), ('ladder', [0, 3, 1])])
def test_an_exported_program_keeps_the_branches(policy, exits):
  program = jax.jit(DISPATCHER.program(policy))
  inputs = inputs_for(exits)
  exported = jax.export.export(program)(VARIABLES, inputs, 0)
  assert exported.mlir_module().count('"stablehlo.case"') == STAGES
  assert_right(exported.call(VARIABLES, inputs, 0), inputs, exits)


def test_switch_takes_one_example():
  with pytest.raises(ValueError, match='switch takes one example, not 2: use ladder'):
    DISPATCHER(VARIABLES, inputs_for([0, 1]), 0, 'switch')
