import numpy as np
import pytest

from tests.reference import summary, weights


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


def test_gain_is_that_of_the_first_pattern_that_is_found():
  shapes = {'a.gn3.weight': [4], 'b.gn3.weight': [4], 'b.bias': [4]}
  plain = weights.state_dict({'state_dict': shapes})
  gain = [['^a\\.', 0.5], ['gn3', 3.0]]
  got = weights.state_dict({'state_dict': shapes, 'gain': gain})
  np.testing.assert_allclose(got['a.gn3.weight'], 0.5 * plain['a.gn3.weight'])
  np.testing.assert_allclose(got['b.gn3.weight'], 3 * plain['b.gn3.weight'])
  np.testing.assert_array_equal(got['b.bias'], plain['b.bias'])
  assert {value.dtype for value in got.values()} == {np.dtype('f4')}


def test_projections_are_the_published_ones():
  got = summary.project('out/x', np.arange(1.0, 130.0))[[0, 1, 2, 63]]
  want = [-84.52328700725988, 58.46194018002142, -112.69771600967985, 145.8026700875233]
  np.testing.assert_allclose(got, want, rtol=1e-9)


def test_a_sample_has_its_summaries_beside_it():
  meta = {'subsample': {'out/x': {'shape': [2, 3], 'stride': 4}}}
  value = np.arange(6, dtype=np.float32).reshape(2, 3)
  got = summary.expand('out/x', value, meta)
  assert set(got) == {'out/x', 'stat/out/x', 'proj/out/x'}
  np.testing.assert_array_equal(got['out/x'], [0, 4])
  np.testing.assert_allclose(got['stat/out/x'], [2.5, np.sqrt(35 / 12), np.sqrt(55)])
  assert summary.expand('out/y', value, meta) == {'out/y': value}
