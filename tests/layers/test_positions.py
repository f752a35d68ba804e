import math

import numpy as np
import pytest

from jdyn.layers.positions import sinusoidal_positions


@pytest.mark.parametrize('features', [2, 6, 7])
def test_sines_then_cosines_from_position_one(features):
  half = features // 2
  table = np.zeros((5, features))
  for t in range(5):
    for i in range(half):
      angle = (t + 1) / 10000 ** (i / max(half - 1, 1))
      table[t, i], table[t, half + i] = math.sin(angle), math.cos(angle)
  np.testing.assert_allclose(sinusoidal_positions(5, features), table, atol=1e-6)
