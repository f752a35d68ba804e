import jax
import numpy as np
import pytest

from jdyn.layers.initializers import (
  attention_uniform,
  fan_in_uniform,
  symmetric_uniform,
)


@pytest.mark.parametrize(
  ('init', 'shape', 'bound'),
  [
    (fan_in_uniform, (100, 80), 100**-0.5),
    (fan_in_uniform, (3, 3, 10, 40), 90**-0.5),
    (attention_uniform, (60, 60), (6 / 240) ** 0.5),
    (attention_uniform, (60, 120), (6 / 240) ** 0.5),
    (symmetric_uniform(0.25), (50, 60), 0.25),
  ],
)
def test_uniform_between_the_bounds_of_pytorch(init, shape, bound):
  values = np.asarray(init(jax.random.key(0), shape))
  assert values.shape == shape
  assert 0.99 * bound < values.max() <= bound
  assert -bound <= values.min() < -0.99 * bound
  np.testing.assert_allclose(values.std(), bound / 3**0.5, rtol=0.05)
