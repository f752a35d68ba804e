"""What `benchmarks/gpu.py` counts, against counts by hand.

Its timings and its PyTorch side need a GPU and PyTorch to mean anything; this runs
anywhere: `python -m benchmarks.gpu --smoke --networks mmimdb --seeds 1`.
"""

import numpy as np
import pytest

from benchmarks import gpu

# Of LeNet: pixels and channels of each block.
_IMAGE_3 = 28**2 * 3 + 14**2 * 6 + 7**2 * 12 + 3**2 * 24
_IMAGE_6 = 2 * _IMAGE_3
_AUDIO_6 = 112**2 * 6 + 56**2 * 12 + 28**2 * 24 + 14**2 * 48 + 7**2 * 96 + 3**2 * 192
_HEAD, _GATE = 100 + 10, 64 + 2


@pytest.fixture(scope='module')
def network(tmp_path_factory):
  return gpu.Network('avmnist', tmp_path_factory.mktemp('data'), 4)


@pytest.mark.parametrize(
  ('path', 'expected'),
  [
    ('image', _GATE + _IMAGE_3 + _HEAD),
    ('joint', _GATE + _IMAGE_6 + _AUDIO_6 + _HEAD),
    (None, _GATE + _IMAGE_3 + _IMAGE_6 + _AUDIO_6 + 2 * _HEAD),
  ],
)
def test_results_of_products_are_counted_once_each(network, path, expected):
  assert network.results(path) == expected


def test_half_of_the_work_is_of_the_cheap_path(network):
  costs = network.stage.costs
  shape = gpu.Shape(costs.parameters, 784 + 112**2, 4, 10, 2)
  work = gpu.prediction_work(network, shape, dense=False)
  assert work.macs == 10 * 4 * (costs.paths['image'] + costs.paths['joint']) / 2
  assert gpu.prediction_work(network, shape, dense=True).macs == 10 * 4 * costs.total


def test_bytes_moved():
  shape = gpu.Shape(parameters=7, inputs=5, batch=3, seeds=2, width=2)
  # Two seeds: weights, results written and read. Inputs are read once.
  assert gpu.moved_in_prediction(shape, 11) == 2 * 2 * (7 + 2 * 3 * 11) + 2 * 3 * 5
  # Each seed has its own batch. Ten passes over the weights, eight in float32.
  weights, results, inputs = 7 * (2 * 2 + 8 * 4), 3 * 11 * 5 * 2, 3 * 5 * 4
  assert gpu.moved_in_training(shape, 11) == 2 * (weights + results + inputs)


@pytest.mark.parametrize(
  ('seconds', 'expected'),
  [(1.0, 'arithmetic'), (2.0, 'arithmetic'), (3.0, 'overhead')],
)
def test_the_bound_is_the_nearer_peak_or_neither(seconds, expected):
  # A second at the peak of arithmetic, half a second at that of memory.
  work = gpu.Work(macs=2.5e12, moved=1e9)
  found = gpu.bound(seconds, work, tflops=5, gbps=2)
  assert found['bound'] == expected
  assert found['arithmetic'] == pytest.approx(1 / seconds)
  assert found['memory'] == pytest.approx(0.5 / seconds)
  assert gpu.bound(1.0, gpu.Work(2.5e11, 1.8e9), 5, 2)['bound'] == 'memory'


def test_half_of_the_examples_are_forced_onto_the_cheapest_path():
  chosen = gpu.forced_paths(np.array([5.0, 1.0, 9.0]), 8)
  assert np.bincount(chosen).tolist() == [0, 4, 4]
