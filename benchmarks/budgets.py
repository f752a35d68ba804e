"""The budget dial on real data: accuracy and time at each budget of one trained gate.

  python -m benchmarks.budgets digits_dyn mosi_dyn rosmap_dyn avmnist_dyn --data DIR
    [--json FILE]

DIR holds one folder per dataset, in the layout that its source reads (the digits need
none). Every config is trained once, as it is committed, and its gate then runs at five
budgets, evenly spaced from the cheapest path to the dearest. Thresholds are calibrated
on the validation split. Accuracy on test, mean and 95 % t-interval over seeds; `lot` is
what sending examples to the two ends by lot would reach at the same cost, and `gain`
the difference, seed by seed.

Time is of the first seed: the test split in batches of 128 (or as one batch, where it
is smaller) and one by one, everything
included from arrays on the device to NumPy outputs. All budgets and the dense model
take turns in every round, and medians count.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from benchmarks.real_data import groups, settings
from benchmarks.rows import row, write_rows
from jdyn.data.rows import SplitRows
from jdyn.evaluators.budget import choose
from jdyn.evaluators.latency import device_name
from jdyn.evaluators.predictions import Predictions, executed_macs, reroute
from jdyn.inference import TrainedRun
from jdyn.metrics.interval import Summary, summarize
from jdyn.models.input_names import input_names
from jdyn.ops.timing import interleave
from jdyn.training import cli
from jdyn.training.loop import train

POINTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Budgets, from the cheapest path (0) to the dearest (1)."""

BATCHES = {128: 1024, 1: 64}
"""Examples that are timed, at most, by size of the batch."""

ROUNDS = 15


def train_all(name: str, data: Path, num_seeds: int, out: Path) -> list[Path]:
  """Trains a config; the folders of its runs."""
  root = '' if name.startswith('digits') else data / name.split('_')[0]
  workdirs = []
  for group in groups(name, num_seeds):
    workdirs.append(out / name / f'seed_{group[0]}')
    config = settings(name, root, group)
    config.lock()
    train(config, workdirs[-1])
  return workdirs


def accuracy(workdirs: list[Path], costs: dict[str, int]) -> list[dict]:
  """Scores and delivered cost of all seeds, by budget."""
  low, high = min(costs.values()), max(costs.values())
  budgets = [low + point * (high - low) for point in POINTS]
  found: list[dict[str, list]] = [
    {'score': [], 'macs': [], 'lot': [], 'alone': []} for _ in budgets
  ]
  for workdir in workdirs:
    valid, test = (
      Predictions.load(workdir / 'stages' / 'main' / f'predictions_{split}.npz')
      for split in ('valid', 'test')
    )
    kept = choose(valid, test, costs, budgets)
    alone = choose(valid, test, costs, budgets, ledger=False)
    ends = [_accuracy(test.expert_logits[path], test) for path in _ends(costs)]
    for one, with_ledger, without in zip(found, kept, alone, strict=True):
      at = reroute(test, with_ledger)
      macs = executed_macs(at, costs, high).mean(axis=1)
      one['macs'] += macs.tolist()
      one['score'] += _accuracy(at.logits, test).tolist()
      one['lot'] += [
        float(np.interp(cost, (low, high), (cheap, dear)))
        for cost, cheap, dear in zip(macs, *ends, strict=True)
      ]
      by_place = np.array([costs[path] for path in test.paths])
      one['alone'] += by_place[without].mean(axis=1).tolist()
  return [{'budget': b, **one} for b, one in zip(budgets, found, strict=True)]


def _ends(costs: dict[str, int]) -> tuple[str, str]:
  return min(costs, key=costs.get), max(costs, key=costs.get)


def _accuracy(logits: np.ndarray, predictions: Predictions) -> np.ndarray:
  return (logits.argmax(axis=-1) == predictions.label).mean(axis=1)


def times(run: TrainedRun, budgets: list[float], size: int) -> dict[str, float]:
  """Median milliseconds per example of the dense model and at each budget."""
  test = run.dataset().splits['test']
  most, size = min(len(test), BATCHES[size]), min(len(test), size)
  count = most // size * size
  names = input_names(run.stage.model)
  batches = [
    jax.device_put(SplitRows(test, rows).read(names))
    for rows in np.arange(count).reshape(-1, size)
  ]

  def call(policy: str, budget: float | None) -> Callable[[], None]:
    return lambda: [None for _ in run.stream(batches, policy, budget)] and None

  calls = {f'{budget:.6g}': call('auto', budget) for budget in budgets}
  calls['dense'] = call('dense', None)
  return {
    name: 1e3 * float(np.median(seconds)) / count
    for name, seconds in interleave(calls, ROUNDS).items()
  }


def benchmark(name: str, data: Path, num_seeds: int, out: Path) -> list[dict]:
  """All rows of one config."""
  workdirs = train_all(name, data, num_seeds, out)
  run = TrainedRun(workdirs[0])
  costs = dict(run.stage.costs.paths)
  found = accuracy(workdirs, costs)
  budgets = [one['budget'] for one in found]
  by_size = {size: times(run, budgets, size) for size in BATCHES}
  rows = []
  for one in found:
    score, macs = summarize(one['score']), summarize(one['macs'])
    gain = summarize(np.subtract(one['score'], one['lot']))
    key = f'{one["budget"]:.6g}'
    rows.append(
      row(
        f'{name}/budget {one["budget"]:,.0f}',
        100 * score.mean,
        'test accuracy in %',
        half_width=100 * _half(score),
        asked=one['budget'],
        delivered=macs.mean,
        worst=float(np.max(np.abs(np.divide(one['macs'], one['budget']) - 1))),
        thresholds_alone=float(np.mean(one['alone'])),
        gain=100 * gain.mean,
        gain_half_width=100 * _half(gain),
        seeds=score.count,
        ms={size: found[key] for size, found in by_size.items()},
        dense_ms={size: found['dense'] for size, found in by_size.items()},
      )
    )
  return rows


def _half(summary: Summary) -> float:
  return summary.high - summary.mean


def main() -> None:
  """Prints a table per config."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('configs', nargs='+')
  parser.add_argument('--data', type=Path, default=Path())
  parser.add_argument('--seeds', type=int, default=10)
  parser.add_argument('--out', type=Path, default=Path('runs/budgets'))
  parser.add_argument('--json', type=Path)
  options = parser.parse_args()
  cli.start_logging()
  cli.use_cache('~/.cache/jdyn/xla')
  rows = []
  for name in options.configs:
    found = benchmark(name, options.data, options.seeds, options.out)
    rows += found
    print(f'\n{name} on {device_name()}')
    print(
      '| asked MACs | delivered | worst seed | thresholds alone | test accuracy, % '
      '| gain over lot | ms, batch 128 | dense | ms, one by one | dense |'
    )
    print('|---' * 10 + '|')
    for one in found:
      ms, dense = one['ms'], one['dense_ms']
      print(
        f'| {one["asked"]:,.0f} | {one["delivered"]:,.0f} | {one["worst"]:.1%} '
        f'| {one["thresholds_alone"]:,.0f} | {one["value"]:.1f} ± '
        f'{one["half_width"]:.1f} | {one["gain"]:+.1f} ± {one["gain_half_width"]:.1f} '
        f'| {ms[128]:.4f} | {dense[128]:.4f} | {ms[1]:.3f} | {dense[1]:.3f} |'
      )
  if options.json:
    write_rows(options.json, rows)


if __name__ == '__main__':
  main()
