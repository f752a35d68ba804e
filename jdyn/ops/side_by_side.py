"""Examples one by one, as many at once as there are cores."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import jax
import numpy as np

from jdyn.ops.cores import num_cores

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

  def one(row):
    with lock:
      under_way = run(row)
    return jax.device_get(under_way)

  with ThreadPoolExecutor(num_cores()) as pool:
    parts = list(pool.map(one, range(size)))
  return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
