"""The best epoch of each seed, and when a seed has stopped."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdyn.training import selection

# Scores by epoch, per seed; a greater one is better.
SCORES = np.array(
  [
    [0.1, 0.5],
    [0.3, 0.4],
    [0.3, 0.3],
    [0.2, 0.6],
    [0.9, 0.1],
    [0.95, 0.7],
  ],
  np.float32,
)


def _variables(epoch, seeds=2):
  """Their values say at which epoch they were taken."""
  return {
    'w': jnp.full((seeds, 3), float(epoch)),
    'b': jnp.full((seeds,), float(epoch)),
  }


def _run(scores, *, maximize=True, patience=-1):
  update = jax.jit(partial(selection.update, maximize=maximize, patience=patience))
  seeds = scores.shape[1]
  best = selection.start(_variables(0, seeds), seeds, maximize)
  trail = []
  for epoch, score in enumerate(scores, start=1):
    variables = _variables(epoch, seeds)
    best = update(best, variables, jnp.asarray(score), jnp.asarray(epoch))
    trail.append(best)
  return best, trail


@pytest.mark.parametrize('maximize', [True, False])
def test_the_best_epoch_is_kept_and_ties_go_to_the_first(maximize):
  best, trail = _run(SCORES if maximize else -SCORES, maximize=maximize)
  assert best.epoch.tolist() == [6, 6]
  third = trail[2]
  assert third.epoch.tolist() == [2, 1]  # 0.3 twice: the second is not better.
  assert third.bad_epochs.tolist() == [1, 2]
  np.testing.assert_array_equal(third.variables['w'], [[2.0] * 3, [1.0] * 3])
  np.testing.assert_array_equal(third.variables['b'], [2.0, 1.0])


def test_more_bad_epochs_than_the_patience_stop_a_seed_for_good():
  best, trail = _run(SCORES, patience=1)
  # The first seed improves in time; the second has its second bad epoch in the third.
  assert [step.stopped.tolist() for step in trail] == [
    [False, False],
    [False, False],
    [False, True],
    [True, True],
    [True, True],
    [True, True],
  ]
  assert best.epoch.tolist() == [2, 1]
  np.testing.assert_allclose(best.score, [0.3, 0.5])
  np.testing.assert_array_equal(best.variables['b'], [2.0, 1.0])


def test_a_seed_stops_as_it_would_alone():
  together, _ = _run(SCORES, patience=1)
  for seed in range(2):
    alone, _ = _run(SCORES[:, seed : seed + 1], patience=1)
    jax.tree.map(
      lambda a, b, s=seed: np.testing.assert_array_equal(a[0], b[s]), alone, together
    )


def test_a_score_that_is_no_number_is_never_better():
  scores = np.array([[0.2], [np.nan], [0.3]], np.float32)
  best, trail = _run(scores)
  assert trail[1].epoch.tolist() == [1]
  assert best.epoch.tolist() == [3]


def test_patience_zero_stops_at_the_first_bad_epoch():
  best, _ = _run(SCORES, patience=0)
  assert best.epoch.tolist() == [2, 1]
  assert best.stopped.all()
