"""Held-out rows: exact in size, fair to classes, faithful to groups."""

import numpy as np
import pytest

from jdyn.data.dataset import DataError
from jdyn.data.holdout import hold_out, hold_out_groups


@pytest.mark.parametrize(('size', 'fraction'), [(10, 0.1), (245, 0.2), (7, 0.5)])
@pytest.mark.parametrize('classes', [1, 2, 5])
def test_every_class_gives_its_share(size, fraction, classes):
  label = np.random.default_rng(0).integers(0, classes, size)
  kept, held = hold_out(label, fraction, seed=3)
  assert sorted([*kept, *held]) == list(range(size))
  assert len(held) == int(size * fraction + 0.5)
  share = len(held) / size
  for number in range(classes):
    assert abs((label[held] == number).sum() - (label == number).sum() * share) <= 1


def test_the_seed_decides():
  strata = np.zeros(100)
  first = hold_out(strata, 0.3, seed=0)[1]
  np.testing.assert_array_equal(first, hold_out(strata, 0.3, seed=0)[1])
  assert (first != hold_out(strata, 0.3, seed=1)[1]).any()
  # Pinned: a split is part of a dataset and may not change with a version.
  np.testing.assert_array_equal(hold_out(np.zeros(12), 0.25, seed=2)[1], [3, 7, 8])


def test_groups_stay_whole():
  groups = np.repeat([f'g{number}' for number in range(20)], np.arange(1, 21))
  kept, held = hold_out_groups(groups, 0.15, seed=0)
  assert sorted([*kept, *held]) == list(range(len(groups)))
  assert not set(groups[kept]) & set(groups[held])
  assert len(set(groups[held])) == 3


@pytest.mark.parametrize('fraction', [0.0, 1.0, -0.1, 0.01, 0.99])
def test_an_empty_side_is_an_error(fraction):
  with pytest.raises(DataError, match='valid_fraction'):
    hold_out(np.zeros(10), fraction, seed=0)
