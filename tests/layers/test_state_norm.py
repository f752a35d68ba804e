"""The layers of equilibrium fusion; the released ones are tested in tests/reference."""

import jax
import numpy as np
import pytest

from jdyn.layers.equilibrium import StateNorm


@pytest.mark.parametrize('over_steps', [False, True])
def test_the_norm_is_of_groups_in_a_step_or_over_all_steps(over_steps):
  # A large mean, which the difference of two moments would lose in float32.
  x = np.random.default_rng(0).normal(1000, 2, (2, 3, 6)).astype(np.float32)
  module = StateNorm(groups=2, scale=0.5, epsilon=0.1, over_steps=over_steps)
  got, variables = module.init_with_output(jax.random.key(0), x)
  groups = x.astype(np.float64).reshape(2, 3, 2, 3)
  axes = (1, 3) if over_steps else (3,)
  centred = groups - groups.mean(axes, keepdims=True)
  variance = np.square(centred).mean(axes, keepdims=True)
  want = 0.5 * centred / np.sqrt(variance + 0.1)
  np.testing.assert_allclose(got, want.reshape(x.shape), atol=2e-4)
  np.testing.assert_array_equal(variables['params']['norm']['scale'], np.full(6, 0.5))
