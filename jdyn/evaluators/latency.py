"""How long a gated model takes, measured on this machine."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from jdyn.ops.dispatcher import Dispatcher
from jdyn.ops.processor import num_cores, processor_name
from jdyn.ops.timing import interleave

# Times of budgets: so many between the cheapest and the dearest path, each of a stream
# that is long enough for the ledger to settle.
_BUDGETS = 9
_LEAST_BATCHES = 8
_LEAST_EXAMPLES = 128


def time_budgets(
  run: Callable[[int, float], Any], costs: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
  """What an example takes at each of several budgets.

  Args:
    run: `(count, budget)`; streams so many batches at a budget in MACs.
    costs: `[K]` MACs of the paths.
    size: examples per batch.

  Returns:
    Mean MACs per example, and seconds per example that never fall with them, both
    `[G]`.
  """
  macs = np.linspace(costs.min(), costs.max(), _BUDGETS)
  count = max(_LEAST_BATCHES, -(-_LEAST_EXAMPLES // size))
  calls = {budget: partial(run, count, budget) for budget in macs}
  times = interleave(calls, rounds=15, budget=5.0)
  seconds = [np.median(times[budget]) / (count * size) for budget in macs]
  return macs, np.maximum.accumulate(seconds)


def time_batch(
  dispatcher: Dispatcher,
  variables: Any,
  inputs: Any,
  costs: Mapping[str, int],
  shares: Mapping[str, float],
  dense_macs: int,
  rounds: int = 15,
) -> dict[str, Any]:
  """What a batch takes: all computed, along each path, and as the gate would send it.

  Args:
    dispatcher: from `conditional`.
    variables: its first argument.
    inputs: a batch of `B` examples.
    costs: MACs of each path, in the order of the gate.
    shares: of the examples that the gate sends along each path. A batch is made of
      them as exactly as it can be; for one example it is their mean.
    dense_macs: of computing everything.
    rounds: turns of each; the median counts.

  Returns:
    `size`; the `policy` that `auto` picked; milliseconds per example: `dense`, by
    path in `paths`, and `gated`; `gated_macs`; and `realised`, the share of the
    ceiling: (dense time / gated time) / (dense MACs / gated MACs).
  """
  size, macs = batch_size(inputs), np.array(list(costs.values()), np.float64)
  mix = np.array([shares[path] for path in costs])
  pure = {path: np.eye(len(costs))[k] for k, path in enumerate(costs)}
  policy = dispatcher.measure(variables, inputs, None).policy

  def call(how, shares):
    return partial(dispatcher, variables, inputs, None, how, _forced(shares, size))

  calls = {('path', path): call(policy, one) for path, one in pure.items()}
  calls['dense'] = call('dense', mix)
  if size > 1:
    calls['gated'] = call(policy, mix)
    mix = np.bincount(_forced(mix, size), minlength=len(costs)) / size
  times = {
    name: 1e3 * float(np.median(seconds)) / size
    for name, seconds in interleave(calls, rounds).items()
  }
  paths = {path: times['path', path] for path in costs}
  gated = times.get('gated', float(mix @ np.array(list(paths.values()))))
  return {
    'size': size,
    'policy': policy,
    'dense': times['dense'],
    'paths': paths,
    'gated': gated,
    'gated_macs': float(mix @ macs),
    'realised': times['dense'] / gated / (dense_macs / float(mix @ macs)),
  }


def device_name() -> str:
  """The accelerator that JAX runs on, or the processor's name and its cores in use."""
  device = jax.devices()[0]
  if device.platform != 'cpu':
    return device.device_kind
  return f'{processor_name()}, {num_cores()} cores'


def _forced(shares: np.ndarray, size: int) -> np.ndarray:
  """Paths `i32[size]` in these shares, as near as `size` allows."""
  ends = np.round(np.cumsum(shares) / np.sum(shares) * size).astype(int)
  return np.searchsorted(ends, np.arange(size), side='right').astype(np.int32)


def batch_size(inputs: Any) -> int:
  """Number of examples of a batch of arrays, or of a reader."""
  size = getattr(inputs, 'size', None)
  return len(jax.tree.leaves(inputs)[0]) if size is None else size
