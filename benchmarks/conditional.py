"""What conditional execution saves on a stopwatch, at every share of cheap examples.

  python -m benchmarks.conditional mmimdb mosei [--json FILE]

The networks of a config, with random weights and inputs of the real shapes (from the
stand-in). The paths are forced, so that exactly the stated share of a batch takes the
cheapest path and the rest the dearest; the gate runs all the same. All ways take turns
in every round of one run:

- `dense`: gate and every expert, then the chosen logits, as the originals do.
- `static`: the dearest expert alone, the model that one would deploy without a gate.
- `switch` (one example) or `ladder`, `buckets`: only the chosen path.
- `auto`: what it picked for this shape before the rounds began.
- `parts`: the gate on the batch, and each expert on a batch of exactly as many examples
  as chose it, one after another, without any grouping. It is what perfect dispatch
  would take on this machine, and tells the cost of dispatch from that of small batches.

The ceiling is what the multiply-accumulates promise: those of `dense` over those that
are executed. `realised` is the measured gain of `auto` over `dense`, as a share of the
ceiling. Times are medians, ratios the medians of the ratios within a round.
"""

import argparse
import importlib
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np

from benchmarks.rows import row, write_rows
from jdyn import build
from jdyn.data.load import load
from jdyn.data.pipeline import assemble
from jdyn.evaluators.conditional import conditional, path_costs
from jdyn.evaluators.latency import device_name
from jdyn.ops.timing import interleave

BATCHES = {'mmimdb': (1, 32, 128, 256), 'mosei': (1, 32, 128)}
SHARES = (0.0, 0.5, 0.8, 0.95, 1.0)
SEED = 0


class Network:
  """A gated model of a config, with random weights."""

  def __init__(self, name: str):
    """Builds it; `name` is that of the dataset."""
    config = importlib.import_module(f'configs.{name}_dyn').get_config()
    with tempfile.TemporaryDirectory() as folder:
      dataset = load(build.source(config), '', cache=Path(folder))
      split = dataset.splits['train']
      self._example = assemble(split, np.zeros(1, np.int32))['inputs']
    self.stage = build.stage(config, dataset.spec)
    self.hparams = {'gate_temperature': 1.0, 'gate_hard': True}
    model = self.stage.model
    self.model = (
      jax.jit(lambda x: model.init(jax.random.key(SEED), x, **self._options()))(
        self._example
      ),
      self.hparams,
    )
    self.costs = path_costs(model, self.stage.costs.paths)
    self.dispatcher = conditional(model, self.costs)
    self._experts = {path: jax.jit(partial(self._expert, path)) for path in model.paths}
    self._gate = jax.jit(
      lambda v, x: model.apply(v, x, method='route', **self._options())[0].logits
    )

  def _expert(self, path: str, variables, inputs):
    return self.stage.model.apply(
      variables, path, inputs, method='expert', **self._options()
    ).logits

  def static(self, inputs):
    """The dearest expert alone."""
    dearest = self.stage.model.paths[int(np.argmax(self.costs))]
    return self._experts[dearest](self.model[0], inputs)

  def parts(self, inputs, forced: np.ndarray) -> Callable[[], list]:
    """What perfect dispatch would run."""
    counts = np.bincount(forced, minlength=len(self.costs))
    groups = [
      (self._experts[path], _first(inputs, count))
      for path, count in zip(self.stage.model.paths, counts, strict=True)
      if count
    ]
    groups.append((self._gate, inputs))
    return lambda: [run(self.model[0], x) for run, x in groups]

  def _options(self) -> dict:
    return {'train': False, 'hparams': self.hparams}

  def inputs(self, size: int):
    """A batch of random inputs on the device; sequences have their full length."""
    rng = np.random.default_rng(SEED)

    def like(x):
      if np.issubdtype(x.dtype, np.integer):
        return np.full((size, *x.shape[1:]), self._steps(), x.dtype)
      return rng.normal(size=(size, *x.shape[1:])).astype(np.float32)

    return jax.device_put(jax.tree.map(like, self._example))

  def _steps(self) -> int:
    return max(x['steps'].shape[1] for x in self._example.values())

  def forced(self, size: int, share: float) -> np.ndarray:
    """Paths `i32[size]`, a share of them the cheapest, in random order."""
    cheap = round(share * size)
    chosen = np.full(size, np.argmax(self.costs), np.int32)
    chosen[:cheap] = np.argmin(self.costs)
    return np.random.default_rng(SEED).permutation(chosen)


def _first(inputs, count: int):
  return jax.tree.map(lambda x: x[:count], inputs)


def measure(name: str, network: Network, size: int, rounds: int) -> list[dict]:
  """All rows of one batch size."""
  inputs = network.inputs(size)
  auto = network.dispatcher.measure(network.model, inputs, None).policy
  policies = ('dense', 'switch' if size == 1 else 'ladder', 'buckets', 'auto')
  rows = []
  for share in SHARES if size > 1 else (0.0, 1.0):
    forced = network.forced(size, share)
    executed = float(network.costs[forced].mean())
    calls = {
      policy: lambda policy=policy, forced=forced: network.dispatcher(
        network.model, inputs, None, policy, forced
      )
      for policy in policies
    }
    calls['static'] = lambda: network.static(inputs)
    calls['parts'] = network.parts(inputs, forced)
    times = interleave(calls, rounds)
    ceiling = network.stage.costs.total / executed
    for policy, seconds in times.items():
      gain = float(np.median(times['dense'] / seconds))
      rows.append(
        row(
          f'{name}/{size}/{share:g}/{policy}',
          1e3 * float(np.median(seconds)),
          'ms per batch',
          best=1e3 * float(seconds.min()),
          baseline='dense',
          ratio=gain,
          ceiling=ceiling,
          realised=gain / ceiling,
          auto=auto,
        )
      )
  return rows


def main() -> None:
  """Prints a table per network."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('networks', nargs='+', choices=sorted(BATCHES))
  parser.add_argument('--rounds', type=int, default=40)
  parser.add_argument('--batches', default='', help='comma-separated sizes')
  parser.add_argument('--json', type=Path)
  options = parser.parse_args()
  found = []
  for name in options.networks:
    network = Network(name)
    costs = network.stage.costs
    print(
      f'\n{name} on {device_name()}, load {os.getloadavg()[0]:.1f}: MACs dense '
      f'{costs.total:,}, '
      + ', '.join(f'{path} {macs:,}' for path, macs in costs.paths.items())
    )
    sizes = [int(size) for size in options.batches.split(',') if size]
    for size in sizes or BATCHES[name]:
      rows = measure(name, network, size, options.rounds)
      found += rows
      _print(rows, size)
  if options.json:
    write_rows(options.json, found)


def _print(rows: list[dict], size: int) -> None:
  """Median milliseconds, best in brackets."""
  by_share: dict[str, dict[str, dict]] = {}
  for one in rows:
    _, _, share, policy = one['name'].split('/')
    by_share.setdefault(share, {})[policy] = one
  policies = list(next(iter(by_share.values())))
  print(f'\nBatch {size}; auto is {rows[0]["auto"]}.')
  print(f'| cheap | {" | ".join(policies)} | gain | ceiling | realised |')
  print('|---' * (len(policies) + 4) + '|')
  for share, found in by_share.items():
    cells = [f'{one["value"]:.2f} ({one["best"]:.2f})' for one in found.values()]
    one = found['auto']
    print(
      f'| {float(share):.0%} | {" | ".join(cells)} | {one["ratio"]:.2f} '
      f'| {one["ceiling"]:.2f} | {one["realised"]:.0%} |',
      flush=True,
    )


if __name__ == '__main__':
  main()
