"""`LocalStageDispatcher` under every policy against a NumPy loop, and what it runs."""

import jax
import jax.export  # Not loaded by `import jax`.
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdyn.ops import dispatcher as module
from jdyn.ops.local_stage_dispatcher import LocalStage, LocalStageDispatcher

pytestmark = pytest.mark.usefixtures('compile_fast')

SIZE, STAGES = 12, 3
VARIABLES = np.array([2.0, 3.0, 5.0], np.float32)


def start(variables, inputs, extra):
  del variables, extra
  return inputs['x'][:, :2], {'y': inputs['x'][:, 2:], 'exit': inputs['exit']}


def stage(number, seen=None):
  """The second stream grows by a column, and knows where it ends."""

  def note(what, y):
    if seen is not None:
      jax.debug.callback(lambda y: seen.append((what, number, y.shape[0])), y)

  def ask(variables, x, y):
    note('ask', y['y'])
    return y['exit'] > number, {'sum': jnp.log(x.sum(axis=1)) + variables[number]}

  def main(variables, x):
    return x * variables[number] + number

  def join(variables, x, y):
    note('join', y['y'])
    grown = jnp.concatenate([y['y'], y['y'][:, :1] * variables[number]], axis=1)
    return x + jnp.sqrt(grown.sum(axis=1, keepdims=True)), {**y, 'y': grown}

  return LocalStage(ask, main, join)


def dispatcher(seen=None):
  return LocalStageDispatcher(
    start,
    [stage(number, seen) for number in range(STAGES)],
    lambda said: jnp.stack([each['sum'] for each in said], axis=1),
    lambda variables, found: variables[0] * jnp.concatenate(found, axis=1),
  )


DISPATCHER = dispatcher()


def inputs_for(exits):
  x = np.random.default_rng(0).uniform(1, 2, size=(len(exits), 4)).astype(np.float32)
  return {'x': x, 'exit': np.asarray(exits, np.int32)}


def loop(inputs, exits):
  outputs, said = [], np.zeros((len(exits), STAGES))
  for row, (given_x, end) in enumerate(zip(inputs['x'], exits, strict=True)):
    x, y, found = given_x[:2], given_x[2:], []
    for number in range(STAGES):
      if end >= number:
        said[row, number] = np.log(x.sum()) + VARIABLES[number]
      x = x * VARIABLES[number] + number
      if end > number:
        y = np.append(y, y[0] * VARIABLES[number])
        x = x + np.sqrt(y.sum())
      found.append(x)
    outputs.append(VARIABLES[0] * np.concatenate(found))
  return said, np.stack(outputs)


def assert_right(result, inputs, exits):
  chosen, shared, outputs = result
  np.testing.assert_array_equal(chosen, exits)
  assert chosen.dtype == np.int32
  said, expected = loop(inputs, exits)
  np.testing.assert_allclose(shared, said, rtol=1e-5)
  np.testing.assert_allclose(outputs, expected, rtol=1e-5)


@st.composite
def exits(draw):
  """Any mix, with exits that nobody takes and all at one exit drawn often."""
  used = sorted(draw(st.sets(st.integers(0, STAGES), min_size=1)))
  size = draw(st.sampled_from((1, SIZE)))
  return draw(st.lists(st.sampled_from(used), min_size=size, max_size=size))


@pytest.mark.parametrize('policy', ['dense', 'switch', 'ladder', 'buckets', 'each'])
@settings(deadline=None, max_examples=30)
@given(exits=exits())
def test_every_policy_equals_a_loop_over_examples(policy, exits):
  exits = exits[:1] if policy == 'switch' else exits
  inputs = inputs_for(exits)
  assert_right(DISPATCHER(VARIABLES, inputs, None, policy), inputs, exits)


@pytest.mark.parametrize('policy', ['dense', 'ladder', 'buckets', 'each'])
def test_forced_exits_replace_those_of_the_gates(policy):
  inputs, forced = inputs_for([0, 1, 2, 3, 0]), np.array([3, -1, 9, 0, -1], np.int32)
  result = DISPATCHER(VARIABLES, inputs, None, policy, forced)
  assert_right(result, inputs, [3, 1, 3, 0, 0])


@pytest.mark.parametrize('policy', ['ladder', 'buckets'])
def test_gates_and_stages_run_on_the_smallest_rung_that_holds_those_who_reach_them(
  policy,
):
  seen, exits = [], [1, 0, 3, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2]
  inputs = inputs_for(exits)
  assert_right(dispatcher(seen)(VARIABLES, inputs, None, policy), inputs, exits)
  jax.effects_barrier()
  expected = [('ask', 0, 16), ('ask', 1, 6), ('ask', 2, 2)]
  expected += [('join', 0, 6), ('join', 1, 2), ('join', 2, 2)]
  assert sorted(seen) == expected


def test_auto_measures_and_an_exported_program_keeps_the_branches(monkeypatch):
  monkeypatch.setattr(module, '_BUDGET', 0)
  run, inputs = dispatcher(), inputs_for([2, 0, 1, 3])
  assert_right(run(VARIABLES, inputs, None), inputs, [2, 0, 1, 3])
  for policy, rows in (('switch', slice(1)), ('ladder', slice(4))):
    some = {name: x[rows] for name, x in inputs.items()}
    program = jax.export.export(jax.jit(run.program(policy)))(VARIABLES, some, None)
    # One for each gate and one for each stage.
    assert program.mlir_module().count('"stablehlo.case"') == 2 * STAGES
    assert_right(program.call(VARIABLES, some, None), some, [2, 0, 1, 3][rows])
  with pytest.raises(ValueError, match='switch takes one example, not 4: use ladder'):
    run(VARIABLES, inputs, None, 'switch')
