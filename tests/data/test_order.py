"""The order of examples: every one once per epoch, and a function of the step alone."""

import hashlib

import numpy as np
import pytest

from jdyn.data.order import chain_hash, eval_rows, split_steps, train_rows

# Sizes that do and do not divide, and a batch larger than the split.
SIZES = [(12, 4), (13, 4), (17, 5), (3, 8)]


@pytest.mark.parametrize(('size', 'batch_size'), SIZES)
def test_every_example_comes_exactly_once_per_epoch(size, batch_size):
  epochs = 6
  steps = -(-epochs * size // batch_size)
  stream = train_rows(5, size, batch_size, 0, steps).ravel()[: epochs * size]
  for epoch in stream.reshape(epochs, size):
    np.testing.assert_array_equal(np.sort(epoch), np.arange(size))
  orders = {tuple(epoch) for epoch in stream.reshape(epochs, size)}
  assert len(orders) > 1


@pytest.mark.parametrize(('size', 'batch_size'), SIZES)
def test_the_batch_of_a_step_does_not_depend_on_where_one_starts(size, batch_size):
  whole = train_rows(5, size, batch_size, 0, 20)
  assert whole.shape == (20, batch_size)
  assert whole.dtype == np.int32
  for start, steps in [(0, 1), (7, 1), (3, 9), (19, 1)]:
    part = train_rows(5, size, batch_size, start, steps)
    np.testing.assert_array_equal(part, whole[start : start + steps])


def test_seeds_have_orders_of_their_own():
  orders = [train_rows(seed, 100, 10, 0, 10).ravel().tolist() for seed in range(3)]
  assert orders[0] != orders[1] != orders[2] != orders[0]


def test_the_order_never_changes_between_versions():
  """Published results can be run again: these numbers are a promise."""
  assert train_rows(3, 8, 4, 0, 3).tolist() == [
    [4, 1, 6, 7],
    [0, 5, 2, 3],
    [0, 7, 6, 1],
  ]


@pytest.mark.parametrize(('size', 'batch_size'), [(7, 3), (6, 3), (1, 4)])
def test_evaluation_takes_rows_in_order_and_masks_the_padding(size, batch_size):
  rows, mask = eval_rows(size, batch_size)
  assert rows.shape == mask.shape
  assert rows.shape[1] == batch_size
  np.testing.assert_array_equal(rows[mask == 1], np.arange(size))
  assert mask.sum() == size
  assert rows.max() == size - 1


def test_a_hash_covers_all_batches_before():
  rows = train_rows(0, 10, 5, 0, 4)
  whole = chain_hash(chain_hash('', rows[:1]), rows[1:])
  assert whole == chain_hash(chain_hash('', rows[:1].astype(np.int64)), rows[1:])
  assert whole != chain_hash(chain_hash('', rows[1:]), rows[:1])
  changed = rows.copy()
  changed[0, 0] += 1
  assert whole != chain_hash(chain_hash('', changed[:1]), rows[1:])
  first = hashlib.sha256(rows[:1].astype('<i4').tobytes()).hexdigest()[:16]
  assert chain_hash('', rows[:1]) == first


@pytest.mark.parametrize(
  ('steps', 'limit', 'want'),
  [
    (10, 100, [10]),
    (100, 100, [100]),
    (101, 100, [51, 50]),
    (7, 3, [3, 3, 1]),
    (9, 3, [3, 3, 3]),
    (5, 1, [1] * 5),
  ],
)
def test_pieces_are_equal_but_for_the_last(steps, limit, want):
  assert split_steps(steps, limit) == want
