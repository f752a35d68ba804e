import numpy as np
import pytest

from tests.reference import weights


@pytest.mark.parametrize(
  ('key', 'shape', 'values'),
  [
    (
      'fc.weight',
      (2, 3),
      [-0.982900262, -0.167361274, 0.318219393, 0.623050392, 0.223666564, -0.07974400],
    ),
    ('bn.running_var', (3,), [0.829794109, 0.927674055, 1.47149074]),
    ('bn.weight', (2,), [1.1597712, 1.13017499]),
    ('alpha', (), [0.0507131107]),
    ('bn.num_batches_tracked', (), [0]),
  ],
)
def test_rule_gives_the_published_values(key, shape, values):
  tensor = weights.tensor(key, shape)
  assert tensor.shape == shape
  np.testing.assert_allclose(tensor.ravel(), values, rtol=1e-6)
