"""Dirichlet distributions, against Dempster's rule as it is written and sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdyn.ops import evidence
from jdyn.ops.energy import log_partition

CLASSES, ROWS = 4, 5
VIEWS = np.random.default_rng(0).gamma(1.0, 3.0, (3, ROWS, CLASSES))
VIEWS[0, 0] = 0.0  # A view without any evidence.


def _opinion(view):
  """Belief `[C]` and vacuity of one example."""
  strength = view.sum() + CLASSES
  return view / strength, CLASSES / strength


def _dempster(one, other):
  """Both combined, and what the two disagree about, as the paper writes it."""
  (b1, u1), (b2, u2) = one, other
  conflict = sum(
    b1[i] * b2[j] for i in range(CLASSES) for j in range(CLASSES) if i != j
  )
  belief = (b1 * b2 + b1 * u2 + b2 * u1) / (1 - conflict)
  return (belief, u1 * u2 / (1 - conflict)), conflict


@pytest.mark.parametrize('count', [1, 2, 3])
def test_combination_is_dempsters_rule(count):
  views = [jnp.asarray(view, jnp.float32) for view in VIEWS[:count]]
  fused, conflict = evidence.combine(views), evidence.conflict(views)
  vacuity = evidence.vacuity(fused)
  for row in range(ROWS):
    opinion, kept = _opinion(VIEWS[0, row]), 1.0
    for view in VIEWS[1:count, row]:
      opinion, lost = _dempster(opinion, _opinion(view))
      kept *= 1 - lost
    belief, unsure = opinion
    np.testing.assert_allclose(vacuity[row], unsure, rtol=1e-5)
    np.testing.assert_allclose(fused[row], belief * CLASSES / unsure, rtol=1e-5)
    np.testing.assert_allclose(conflict[row], 1 - kept, atol=1e-6)


def test_order_is_no_matter_and_no_evidence_changes_nothing():
  views = [jnp.asarray(view, jnp.float32) for view in VIEWS]
  for order in ([2, 0, 1], [1, 2, 0]):
    shuffled = [views[k] for k in order]
    for fn in (evidence.combine, evidence.conflict):
      np.testing.assert_allclose(fn(shuffled), fn(views), rtol=1e-5)
  without = [views[1], jnp.zeros_like(views[1])]
  np.testing.assert_array_equal(evidence.combine(without), views[1])
  np.testing.assert_array_equal(evidence.conflict(without), np.zeros(ROWS))


def test_losses_are_expectations_under_the_dirichlet():
  alpha = np.array([3.0, 1.5, 1.0, 6.0])
  draws = np.random.default_rng(1).dirichlet(alpha, 200_000)
  entropy = evidence.expected_cross_entropy(jnp.array([alpha]), jnp.array([1]))
  np.testing.assert_allclose(entropy, -np.log(draws[:, 1]).mean(), rtol=0.01)
  # Log density less that of the uniform distribution, whose density is (C - 1)!.
  log = jax.scipy.special.gammaln
  density = log(alpha.sum()) - log(alpha).sum() + np.log(draws) @ (alpha - 1)
  want = np.mean(density - np.log(6.0))
  got = evidence.divergence_from_uniform(jnp.array([alpha]))
  np.testing.assert_allclose(got, want, rtol=0.01)
  flat = evidence.divergence_from_uniform(jnp.ones((1, CLASSES)))
  np.testing.assert_allclose(flat, 0.0, atol=1e-5)


def test_misleading_evidence_is_that_for_other_classes():
  alpha = jnp.array([[3.0, 2.0, 5.0], [1.0, 4.0, 7.0]])
  got = evidence.misleading(alpha, jnp.array([2, 1]))
  np.testing.assert_array_equal(got, [[3, 2, 1], [1, 1, 7]])


@pytest.mark.parametrize('temperature', [1.0, 2.0])
def test_log_partition(temperature):
  logits = np.array([[0.5, -1.0, 2.0], [-3.0, -3.0, -3.0]])
  want = temperature * np.log(np.exp(logits / temperature).sum(-1))
  np.testing.assert_allclose(log_partition(jnp.array(logits), temperature), want, 1e-6)
  for far in (200.0, -200.0):  # Where the sum of exponentials is inf or 0.
    value = log_partition(jnp.full((1, 3), far))
    np.testing.assert_allclose(value, far + np.log(3), rtol=1e-6)
