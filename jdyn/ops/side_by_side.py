"""Examples one by one, as many at once as there are cores."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import jax
import numpy as np

from jdyn.ops.processor import num_cores

PyTree = Any


def side_by_side(run: Callable[[int], PyTree], size: int) -> PyTree:
  """What `run(row)` returns for every row, put together as NumPy arrays `[size, ...]`.

  JAX runs the programs of one thread one after another, so each is called from one of
  as many threads as there are cores. Tracing and compiling happens in one at a time:
  the others then find the program. JAX's context managers, as `default_device`, hold
  for a thread; what the caller set by them does not reach these.

  Args:
    run: `row -> pytree with leaves [1, ...]`.
    size: number of rows, at least one.
  """
  lock = Lock()
  whole = None

  def one(row):
    nonlocal whole
    with lock:
      under_way = run(row)
      if whole is None:
        whole = jax.tree.map(
          lambda leaf: np.empty((size, *leaf.shape[1:]), leaf.dtype), under_way
        )
    # Each thread puts its own in place: a copy of all at the end would be one core's.
    for place, part in zip(*map(jax.tree.leaves, (whole, under_way)), strict=True):
      place[row] = np.asarray(part)[0]

  with ThreadPoolExecutor(num_cores()) as pool:
    for _ in pool.map(one, range(size)):
      pass
  return whole
