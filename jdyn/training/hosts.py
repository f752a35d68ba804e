"""What the processes of one run agree on; with one process, all of it is free.

JAX starts the processes (`jax.distributed`), moves the sums between them and lets
them meet. Every process runs the same program on its own rows of each batch; the first
one alone writes to the folder of the run, which all of them must see.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

T = TypeVar('T')


class HostError(RuntimeError):
  """Another process of the run failed; its own log says how."""


def start(
  coordinator: str | None = None, count: int | None = None, index: int | None = None
) -> None:
  """Joins the processes of this run; to be called before anything else of JAX.

  Args:
    coordinator: `host:port` of the first process.
    count: how many processes there are.
    index: of this one.

  What is None is found out where JAX can: under SLURM, Open MPI, Kubernetes and on TPU
  slices.

  Raises:
    ValueError: it cannot be found out.
  """
  jax.distributed.initialize(coordinator, count, index)


def is_first() -> bool:
  """Whether this is the process that writes."""
  return jax.process_index() == 0


def any_of(*flags: bool) -> tuple[bool, ...]:
  """For each flag, whether it is set in any process."""
  if jax.process_count() == 1:
    return flags
  found = multihost_utils.process_allgather(np.array(flags))
  return tuple(map(bool, found.any(axis=0)))


def from_first(number: int) -> int:
  """The first process's number, in all."""
  if jax.process_count() == 1:
    return number
  return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def first_alone(job: Callable[[], T]) -> T | None:
  """Does a job in the first process; the others wait, and get None.

  Raises:
    HostError: in the others, if it fails there.
  """
  result, error = None, None
  if is_first():
    try:
      result = job()
    except Exception as caught:
      error = caught
  (failed,) = any_of(error is not None)
  if error is not None:
    raise error
  if failed:
    raise HostError('Process 0 could not go on; its log says why.')
  return result


def first_ahead(job: Callable[[], T]) -> T:
  """Does a job in the first process, and then in the others, which find what it left.

  Raises:
    HostError: in the others, if it fails there.
  """
  result = first_alone(job)
  return result if is_first() else job()
