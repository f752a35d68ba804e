"""Wall-clock times of several calls, measured side by side."""

import math
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

Name = TypeVar('Name', bound=Hashable)


def interleave(
  calls: Mapping[Name, Callable[[], Any]],
  rounds: int,
  *,
  warmup: int = 1,
  least: float = 1e-3,
  budget: float = math.inf,
) -> dict[Name, np.ndarray]:
  """Seconds per call, `[rounds]` for each name.

  In every round each call has its turn, so that a change of the machine's speed
  meets all of them: entry `i` of one name and entry `i` of another were measured
  together, and their ratio is steadier than either. The round starts with another
  name each time, so that none always follows the same neighbour.

  Args:
    calls: what to time. What a call returns is waited for
      (`jax.block_until_ready`) inside the measured time.
    rounds: turns of every call.
    warmup: calls before the first round, not counted; compiling belongs there.
    least: seconds that a turn should last at least. A shorter call is repeated and
      the turn's mean is kept, since a clock read costs a share of a microsecond.
    budget: seconds after which no further round starts. There are always three
      (or `rounds`, where that is fewer).

  Raises:
    ValueError: if `calls` is empty or `rounds` is below one.
  """
  if not calls or rounds < 1:
    raise ValueError(
      f'calls={list(calls)}, rounds={rounds}: give at least one call and one round.'
    )
  repeats = {}
  for name, call in calls.items():
    for _ in range(warmup):
      jax.block_until_ready(call())
    repeats[name] = math.ceil(least / max(_seconds(call, 1), 1e-9)) or 1
  names = list(calls)
  seconds: dict[Name, list[float]] = {name: [] for name in names}
  start = time.perf_counter()
  for turn in range(rounds):
    if turn >= 3 and time.perf_counter() - start > budget:
      break
    first = turn % len(names)
    for name in names[first:] + names[:first]:
      seconds[name].append(_seconds(calls[name], repeats[name]))
  return {name: np.asarray(values) for name, values in seconds.items()}


def _seconds(call: Callable[[], Any], repeats: int) -> float:
  start = time.perf_counter()
  for _ in range(repeats):
    jax.block_until_ready(call())
  return (time.perf_counter() - start) / repeats
