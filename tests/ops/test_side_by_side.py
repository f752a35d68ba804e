"""Rows one by one, several at once."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdyn.ops import side_by_side as module
from jdyn.ops.side_by_side import side_by_side


@pytest.mark.parametrize('cores', [1, 3])
def test_rows_are_put_together_in_their_order(monkeypatch, cores):
  monkeypatch.setattr(module, 'num_cores', lambda: cores)
  x = np.arange(10.0, dtype=np.float32).reshape(5, 2)
  program = jax.jit(lambda row: {'x': jnp.asarray(x)[row][None], 'row': row[None]})
  found = side_by_side(lambda row: program(np.int32(row)), 5)
  np.testing.assert_array_equal(found['x'], x)
  np.testing.assert_array_equal(found['row'], np.arange(5))


class Pending:
  """An output that is only there when another one is waited for, too."""

  shape, dtype = (1,), np.dtype(int)

  def __init__(self, row, barrier):
    self._row, self._barrier = row, barrier

  def __array__(self, *args, **kwargs):
    self._barrier.wait(timeout=60)
    return np.array([self._row])


def test_as_many_rows_are_waited_for_at_once_as_there_are_cores(monkeypatch):
  monkeypatch.setattr(module, 'num_cores', lambda: 2)
  both = threading.Barrier(2)
  found = side_by_side(lambda row: Pending(row, both), 4)
  np.testing.assert_array_equal(found, range(4))


def test_a_program_is_compiled_once(monkeypatch):
  monkeypatch.setattr(module, 'num_cores', lambda: 4)
  traced = []

  @jax.jit
  def program(row):
    traced.append(row)
    return row[None]

  side_by_side(lambda row: program(np.int32(row)), 8)
  assert len(traced) == 1


def test_an_error_of_a_row_is_the_callers(monkeypatch):
  monkeypatch.setattr(module, 'num_cores', lambda: 2)

  def run(row):
    if row == 2:
      raise ValueError('row 2')
    return np.zeros(1)

  with pytest.raises(ValueError, match='row 2'):
    side_by_side(run, 4)
