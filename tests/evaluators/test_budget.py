"""The budget dial: prices against brute force, what is delivered, and causality."""

import dataclasses
from itertools import pairwise

import hypothesis.extra.numpy as arrays
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdyn.evaluators.budget import (
  POINTS,
  Budget,
  at_budget,
  calibrate,
  check_budget,
  choose,
  parse_budget,
  spend,
  spend_blindly,
)
from jdyn.evaluators.predictions import Predictions, executed_macs

TWO = np.array([200.0, 1000.0])
THREE = np.array([500.0, 1000.0, 200.0])
COSTS = {
  'two': TWO,
  'three': THREE,
  'far': np.array([1.0, 20.0]),
  'equal': np.array([1000.0, 200.0, 1000.0]),
}
SIZE = 40


def draw(size, paths=2, seed=0, shift=0.0, scale=1.0, lead=()):
  """Gate logits whose margins have mean `shift` and deviation `scale`."""
  logits = np.random.default_rng(seed).normal(size=(*lead, size, paths)) / np.sqrt(2)
  logits[..., 1] += shift
  return (scale * logits).astype(np.float32)


def cost_at(logits, costs, price):
  """Brute force: the mean cost of the best paths at a price."""
  return costs[np.argmax(logits - price * costs, axis=-1)].mean()


def delivered(paths, costs, budget):
  """How far a choice is off, as a share of the budget."""
  return costs[np.asarray(paths)].mean(axis=-1) / budget - 1


def between(costs, share):
  """The budget at a share of the way from the cheapest to the dearest path."""
  return costs.min() + share * (costs.max() - costs.min())


@pytest.mark.parametrize('name', COSTS)
def test_prices_cost_on_validation_what_they_should(name):
  costs = COSTS[name] / COSTS[name].max()
  logits = draw(200, len(costs)).astype(np.float64)
  dial = calibrate(logits, COSTS[name])
  assert dial.targets.shape == dial.prices.shape == (POINTS,)
  assert float(dial.targets[0]) == pytest.approx(costs.min())
  assert float(dial.targets[-1]) == 1
  prices = np.asarray(dial.prices, np.float64)
  assert (np.diff(prices) <= 0).all()
  # A price is where some example changes its path; just above it costs the target,
  # to within the one example.
  found = np.array([cost_at(logits, costs, p + 1e-5) for p in prices])
  one_example = (1 - costs.min()) / 200
  assert np.abs(found - dial.targets)[1:-1].max() < 1.1 * one_example


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
  logits=arrays.arrays(np.float32, (SIZE, 3), elements=st.floats(-50, 50, width=32)),
  costs=st.permutations([1.0, 4.0, 9.0]),
  prices=st.lists(st.floats(-100, 100), min_size=2, max_size=5),
)
def test_cost_never_rises_with_the_price(logits, costs, prices):
  costs = np.array(costs) / 9
  found = [cost_at(logits.astype(np.float64), costs, p) for p in sorted(prices)]
  assert all(high >= low - 1e-12 for high, low in pairwise(found))
  dial = calibrate(logits, costs)
  assert np.isfinite(dial.prices).all()
  assert (np.diff(dial.prices) <= 0).all()


# XLA takes a subnormal number for zero.
_LOGITS = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
  valid=arrays.arrays(np.float32, (SIZE, 3), elements=st.floats(-9, 9, width=32)),
  logits=arrays.arrays(np.float32, (SIZE, 3), elements=_LOGITS),
  costs=st.sampled_from([(1, 4, 9), (9, 1, 4), (2, 2, 9), (5, 5, 5)]),
)
def test_ends_hold_for_any_logits(valid, logits, costs):
  costs = np.array(costs, np.float32)
  dial = calibrate(valid, costs)
  for end in (costs.min(), costs.max()):
    paths, after = spend(dial, logits, costs, end)
    paths = np.asarray(paths)
    assert (costs[paths] == end).all()
    # Of equally dear paths it is the one that the gate prefers.
    allowed = np.where(costs == end, logits, -np.inf)
    np.testing.assert_array_equal(allowed[np.arange(SIZE), paths], allowed.max(axis=1))
    assert float(after.balance) == pytest.approx(0, abs=1e-5)


def test_ends_are_exact_in_a_long_run():
  logits = draw(20_000, seed=1, scale=5)
  for costs in np.random.default_rng(0).integers(1000, 10**8, size=(20, 2)):
    dial = calibrate(draw(SIZE), costs)
    for end in (costs.min(), costs.max()):
      paths, _ = spend(dial, logits, costs, float(end))
      assert (costs[np.asarray(paths)] == end).all()


SHIFTS = {
  'same': {},
  'easier': {'shift': -0.5},
  'harder': {'shift': 0.5},
  'much harder': {'shift': 1.0},
  'surer': {'scale': 3.0},
}


@pytest.mark.parametrize('kind', SHIFTS)
@pytest.mark.parametrize('name', ['two', 'three'])
def test_delivers_what_was_asked(name, kind):
  """Also where 100 examples are not those of validation; a simulation of 50 runs.

  That every run is within 5 % at 106 examples cannot be had: near the cheap end this
  is three examples. Of all runs 98 % are, and all at 400; thresholds alone are not.
  """
  costs = COSTS[name].astype(np.float32)
  budgets = between(costs, np.array([0.1, 0.3, 0.5, 0.8]))
  dials = jax.vmap(calibrate, (0, None))(draw(200, len(costs), lead=(50,)), costs)

  def run(fn, logits, budget):
    return jax.vmap(fn, (0, 0, None, None))(dials, logits, costs, budget)

  logits = draw(400, len(costs), seed=1, lead=(50,), **SHIFTS[kind])
  paths = [run(spend, logits, budget)[0] for budget in budgets]
  blind = [run(spend_blindly, logits, budget) for budget in budgets]
  early, late, alone = (
    np.abs([delivered(p, costs, b) for p, b in zip(of, budgets, strict=True)])
    for of in ([p[:, :106] for p in paths], paths, blind)
  )
  assert (early < 0.05).mean() > 0.98
  assert late.max() < 0.05
  assert (alone < 0.05).mean() < 0.9


def test_it_spends_where_the_gate_sees_most_use():
  """The ledger costs little of what the gate knows: 95 % at 8, 99 % at a long run."""
  costs = TWO.astype(np.float32)
  logits = draw(1000, seed=1, lead=(20,))
  dials = jax.vmap(calibrate, (0, None))(draw(200, lead=(20,)), costs)
  paths, _ = jax.vmap(spend, (0, 0, None, None))(dials, logits, costs, 600.0)
  margin = logits[..., 1] - logits[..., 0]
  sent = np.asarray(paths) == 1
  kept = []
  for one, here in zip(margin, sent, strict=True):
    best = np.sort(one)[-here.sum() :].sum()
    chance = here.sum() * one.mean()
    kept.append((one[here].sum() - chance) / (best - chance))
  assert np.mean(kept) > 0.97


def halves(first, second):
  return np.concatenate([draw(250, shift=first), draw(250, seed=1, shift=second)])


HARD = {
  'tied': (np.zeros((60, 2)), np.zeros((500, 2))),
  'nearly tied': (np.full((60, 2), 0.1) + 1e-8 * draw(60), np.full((500, 2), 0.1)),
  'saturated': tuple(50.0 * np.sign(draw(n, seed=n)) for n in (60, 500)),
  'rounded': tuple(np.round(draw(n, seed=n)) for n in (60, 500)),
  'all dear': (draw(60), draw(500, shift=50)),
  'all cheap': (draw(60), draw(500, shift=-50)),
  'at first dear': (draw(60), halves(50, -50)),
  'at first cheap': (draw(60), halves(-50, 50)),
  'infinitely sure': (draw(60), 1e30 * draw(500)),
}


@pytest.mark.parametrize('name', HARD)
@pytest.mark.parametrize('share', [0.25, 0.5, 0.75])
def test_logits_that_no_threshold_divides(name, share):
  valid, logits = HARD[name]
  budget = between(TWO, share)
  paths, _ = spend(calibrate(valid, TWO), logits, TWO, budget)
  for size in (106, 500):
    assert abs(delivered(paths[:size], TWO, budget)) < 0.05


def test_one_path_is_always_that_path():
  dial = calibrate(np.zeros((5, 1)), np.array([7.0]))
  paths, _ = spend(dial, np.ones((4, 1)), np.array([7.0]), 7.0)
  np.testing.assert_array_equal(paths, 0)


def test_choices_know_nothing_of_later_examples():
  dial, logits = calibrate(draw(SIZE), TWO), draw(100, seed=1)
  changed = logits.copy()
  changed[60:] = -3 * changed[60:] + 1
  one, _ = spend(dial, logits, TWO, 600.0)
  other, _ = spend(dial, changed, TWO, 600.0)
  np.testing.assert_array_equal(one[:60], other[:60])
  assert (one[60:] != other[60:]).any()


def test_batches_are_as_one():
  dial, logits = calibrate(draw(SIZE), TWO), draw(100, seed=1, shift=1.0)
  whole, end = spend(dial, logits, TWO, 600.0)
  parts = []
  for start in range(0, 100, 25):
    paths, dial = spend(dial, logits[start : start + 25], TWO, 600.0)
    parts.append(paths)
  np.testing.assert_array_equal(np.concatenate(parts), whole)
  jax.tree.map(np.testing.assert_array_equal, dial, end)
  spent = TWO[np.asarray(whole)].sum()
  assert float(end.balance) == pytest.approx((100 * 600 - spent) / 1000, abs=1e-4)
  assert int(end.seen) == 100


def test_seeds_are_as_one_by_one():
  valid, logits = draw(SIZE, lead=(3,)), draw(50, seed=1, lead=(3,))
  dials = jax.vmap(calibrate, (0, None))(valid, TWO)
  paths, _ = jax.jit(jax.vmap(spend, (0, 0, None, None)))(dials, logits, TWO, 500.0)
  for seed in range(3):
    alone, _ = spend(calibrate(valid[seed], TWO), logits[seed], TWO, 500.0)
    np.testing.assert_array_equal(paths[seed], alone)


def test_unit_of_the_costs_is_no_matter():
  valid, logits = draw(SIZE), draw(50, seed=1)
  want, _ = spend(calibrate(valid, TWO), logits, TWO, 500.0)
  got, _ = spend(calibrate(valid, 1e7 * TWO), logits, 1e7 * TWO, 5e9)
  np.testing.assert_array_equal(got, want)


PATHS = ('dear', 'cheap')  # Neither sorted by name nor by cost.
MACS = {'cheap': 200, 'dear': 1000}


def predictions(split, size, seed, seeds=3):
  rng = np.random.default_rng(seed)
  experts = {p: rng.normal(size=(seeds, size, 4)).astype(np.float32) for p in PATHS}
  gate_logits = draw(size, seed=seed, lead=(seeds,))
  weights = {p: (gate_logits.argmax(-1) == k) * 1.0 for k, p in enumerate(PATHS)}
  return Predictions(
    ids=np.arange(size).astype(str),
    label=rng.integers(4, size=size),
    logits=sum(weights[p][..., None] * experts[p] for p in PATHS).astype(np.float32),
    expert_logits=experts,
    weights=weights,
    about={'split': split},
    gate_logits=gate_logits,
    paths=PATHS,
  )


def test_predictions_at_a_budget():
  valid, test = predictions('valid', 80, 0), predictions('test', 150, 1)
  at = at_budget(valid, test, MACS, Budget(500.0, 'macs'))
  costs = np.array([MACS[path] for path in PATHS])
  for seed in range(3):
    dial = calibrate(valid.gate_logits[seed], costs)
    chosen, _ = spend(dial, test.gate_logits[seed], costs, 500.0)
    for n, k in enumerate(np.asarray(chosen)):
      want = test.expert_logits[PATHS[k]][seed, n]
      np.testing.assert_array_equal(at.logits[seed, n], want)
      assert [at.weights[path][seed, n] for path in PATHS] == [k == 0, k == 1]
  spent = executed_macs(at, MACS, 1200).mean(axis=1)
  np.testing.assert_allclose(spent, 500, rtol=0.05)
  assert at.about == {'split': 'test', 'budget_macs': 500.0}
  assert at.label is test.label


def test_of_validation_only_gate_logits_are_used_and_of_test_no_label():
  valid, test = predictions('valid', 80, 0), predictions('test', 150, 1)
  want = choose(valid, test, MACS, [300.0, 700.0])
  nothing = {'label': None, 'logits': None, 'expert_logits': {}, 'weights': {}}
  got = choose(
    dataclasses.replace(valid, **nothing),
    dataclasses.replace(test, **nothing),
    dict(reversed(MACS.items())),
    [300.0, 700.0],
  )
  np.testing.assert_array_equal(got, want)


def test_thresholds_come_from_validation_alone():
  """Without the ledger an example's path depends on no other test example."""
  valid, test = predictions('valid', 80, 0), predictions('test', 150, 1)
  whole = choose(valid, test, MACS, [500.0], ledger=False)
  part = dataclasses.replace(test, gate_logits=test.gate_logits[:, 100:])
  got = choose(valid, part, MACS, [500.0], ledger=False)
  np.testing.assert_array_equal(got, whole[..., 100:])
  shifted = dataclasses.replace(valid, gate_logits=draw(80, shift=1, lead=(3,)))
  assert (choose(shifted, test, MACS, [500.0], ledger=False) != whole).any()


def test_predictions_without_a_gate_have_no_budget():
  test = predictions('test', 9, 0)
  none = dataclasses.replace(test, gate_logits=None, paths=())
  with pytest.raises(ValueError, match="split 'test' have none: the model has no gate"):
    choose(none, test, MACS, [500.0])
  with pytest.raises(ValueError, match=r'expected .*other'):
    choose(test, test, {'cheap': 1, 'other': 2}, [1.5])
  with pytest.raises(ValueError, match='no paths to choose from'):
    at_budget(none, none, {}, Budget(5.0, 'macs'))


@pytest.mark.parametrize(
  ('text', 'want'),
  [
    ('12M', (12e6, 'macs')),
    ('1.5G', (1.5e9, 'macs')),
    ('900k', (9e5, 'macs')),
    ('5e6', (5e6, 'macs')),
    (5e6, (5e6, 'macs')),
    (1e20, (1e20, 'macs')),
    (700, (700.0, 'macs')),
    (' 2.5 M ', (2.5e6, 'macs')),
    ('0.3ms', (0.3, 'ms')),
    ('.5 ms', (0.5, 'ms')),
  ],
)
def test_budgets_are_read(text, want):
  assert parse_budget(text) == pytest.approx(want)


@pytest.mark.parametrize(
  'text', ['', 'M', '5m', '5MM', '-3M', '0', 'nan', 'inf', '1.2.3k', '5 s', '1e', None]
)
def test_what_is_no_budget_is_refused(text):
  with pytest.raises(ValueError, match='give MACs as 12M'):
    parse_budget(text)


@pytest.mark.parametrize('value', [199.0, 1001.0])
def test_budget_out_of_reach_names_the_range(value):
  message = (
    "cheapest path, 'cheap', costs 200 MACs, and the dearest, 'dear', 1,000 MACs"
  )
  with pytest.raises(ValueError, match=message):
    check_budget(Budget(value, 'macs'), MACS)
  with pytest.raises(ValueError, match=f'budget={value:.4g} ms .* costs 200 ms'):
    check_budget(Budget(value, 'ms'), MACS)
  check_budget(Budget(200.0, 'macs'), MACS)
  check_budget(Budget(1000.0, 'macs'), MACS)
