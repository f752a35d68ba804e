"""Accuracy and cost on real data: every expert and the gated model at three budgets.

  python -m benchmarks.real_data mosi rosmap avmnist --data DIR [--json FILE]

DIR holds one folder per dataset, in the layout that its source reads. The experts
are trained once per dataset; every budget trains a gate on them. Selection uses the
validation split only; the table shows test accuracy, mean and 95 % t-interval over
seeds, and multiply-accumulates per example that must be executed.
"""

import argparse
import importlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from benchmarks.rows import row, write_rows
from jdyn import build
from jdyn.evaluators.run_files import read_json
from jdyn.metrics.interval import summarize
from jdyn.training import cli
from jdyn.training.loop import train

BUDGETS = {
  'mosi': (0.0, 0.02, 0.1),
  'rosmap': (0.0, 0.05, 0.2),
  'avmnist': (0.02, 0.2, 0.6),
}
"""Weights of the budget term, per dataset: loose, medium, tight."""

# Seeds of convolutional networks run one after another: vmap makes grouped
# convolutions of theirs, which are several times slower on CPU.
ONE_BY_ONE = ('avmnist',)


def settings(name: str, root: Path | str, seeds: Sequence[int]) -> ConfigDict:
  """The config of that name, on real data, with these seeds."""
  config = importlib.import_module(f'configs.{name}').get_config()
  config.data.root = str(root)
  config.seed, config.num_seeds = seeds[0], len(seeds)
  if name.startswith('avmnist'):
    config.experts.image.epochs = config.experts.joint.epochs = 3
  return config


def groups(name: str, num_seeds: int) -> list[list[int]]:
  """Seeds that are trained in one program."""
  seeds = list(range(num_seeds))
  one_by_one = name.split('_')[0] in ONE_BY_ONE
  return [[seed] for seed in seeds] if one_by_one else [seeds]


def run(name: str, root: Path, budget: float, seeds: list[int], workdir: Path) -> None:
  """Trains the gate of one budget; experts of another budget are taken over."""
  config = settings(f'{name}_dyn', root, seeds)
  config.loss.budget = budget
  config.lock()
  train(config, workdir)


def results(workdirs: list[Path], stage: str) -> dict:
  """Scores of a stage over all seeds."""
  files = [workdir / 'stages' / stage / 'result.json' for workdir in workdirs]
  found = [read_json(file) for file in files]
  test = [one['splits']['test'] for one in found]
  return {
    'n': test[0]['n'],
    'accuracy': [value for one in test for value in one['model']['accuracy']],
    'macs': float(np.mean([value for one in test for value in one['macs']])),
    'usage': {
      path: float(np.mean([value for one in test for value in one['usage'][path]]))
      for path in test[0]['usage']
    },
  }


def benchmark(name: str, root: Path, num_seeds: int, out: Path) -> list[dict]:
  """All rows of one dataset."""
  seed_groups = groups(name, num_seeds)
  experts = sorted(importlib.import_module(f'configs.{name}_dyn').get_config().experts)
  workdirs: dict[float, list[Path]] = {}
  for budget in BUDGETS[name]:
    workdirs[budget] = [
      out / name / f'budget_{budget}' / f'seed_{group[0]}' for group in seed_groups
    ]
    for i, (group, workdir) in enumerate(
      zip(seed_groups, workdirs[budget], strict=True)
    ):
      first = workdirs[BUDGETS[name][0]][i]
      for expert in experts if workdir != first else ():
        stage = workdir / 'stages' / expert
        if not stage.exists():
          shutil.copytree(first / 'stages' / expert, stage)
      run(name, root, budget, group, workdir)
  rows = [
    _row(name, expert, results(workdirs[BUDGETS[name][0]], expert))
    for expert in experts
  ]
  return rows + [
    _row(name, f'gated, budget {budget:g}', results(workdirs[budget], build.MAIN))
    for budget in BUDGETS[name]
  ]


def _row(dataset: str, model: str, found: dict) -> dict:
  interval = summarize(found['accuracy'])
  shares = ', '.join(f'{path} {share:.0%}' for path, share in found['usage'].items())
  return row(
    f'{dataset}/{model}',
    100 * interval.mean,
    'test accuracy in %',
    half_width=100 * (interval.high - interval.mean),
    macs=found['macs'],
    n=found['n'],
    seeds=interval.count,
    paths=shares,
  )


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('datasets', nargs='+', choices=sorted(BUDGETS))
  parser.add_argument('--data', type=Path, required=True)
  parser.add_argument('--seeds', type=int, default=10)
  parser.add_argument('--out', type=Path, default=Path('runs/real_data'))
  parser.add_argument('--json', type=Path)
  options = parser.parse_args()
  cli.start_logging()
  cli.use_cache('~/.cache/jdyn/xla')
  rows = []
  for name in options.datasets:
    rows += benchmark(name, options.data / name, options.seeds, options.out)
  print('| model | test accuracy | MACs per example | chosen paths |')
  print('|---|---|---|---|')
  for one in rows:
    score = f'{one["value"]:.1f} ± {one["half_width"]:.1f} %'
    print(f'| {one["name"]} | {score} | {one["macs"]:,.0f} | {one["paths"]} |')
  if options.json:
    write_rows(options.json, rows)


if __name__ == '__main__':
  main()
