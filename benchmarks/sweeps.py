"""One program for a grid of seeds and budget weights, against one run after another.

  python -m benchmarks.sweeps [--config mosei_dyn] [--seeds 10] [--epochs 1]
    [--singles] [--json FILE]

A gate is trained on finished experts for every seed and every of five weights of the
budget term: as one compiled program, as one program per weight (its seeds together),
and, with --singles, as single runs. The experts are trained before, outside of the
clock; everything else counts: loading, compiling, training, prediction, writing. Each
way starts with an empty compilation cache, so that of the single runs only the first
one compiles, and all run in one process. Data are the stand-in; the more steps there
are, the less everything but training counts.
"""

import argparse
import importlib
import shutil
import tempfile
import time
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from benchmarks.rows import row, write_rows
from jdyn.evaluators.latency import device_name
from jdyn.training import cli, grid
from jdyn.training.sweep import sweep

WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.4)


def settings(name: str, epochs: int, num_seeds: int):
  """The config with short stages."""
  config = importlib.import_module(f'configs.{name}').get_config()
  config.epochs, config.num_seeds = epochs, num_seeds
  config.patience = -1
  for path in config.experts:
    config.experts[path].epochs = 1
  return config.lock()


def timed(config, axes, experts: Path, workdir: Path, together: int) -> float:
  """Seconds of a sweep whose first variant of each seed finds its experts."""
  done = set()
  for variant in grid.variants(config, axes):
    if (seed := variant.config.seed) in done:
      continue
    done.add(seed)
    source = experts / f'{seed}_{variant.config.num_seeds}' / 'stages'
    for path in config.experts:
      target = workdir / variant.name / 'stages' / path
      shutil.copytree(source / path, target)
  jax.clear_caches()
  cli.use_cache(str(workdir / 'xla'))
  compilation_cache.reset_cache()
  start = time.perf_counter()
  sweep(config, axes, workdir, together=together)
  return time.perf_counter() - start


def train_experts(config, folder: Path) -> None:
  """One gate and its experts, of which the experts are kept."""
  axes = {'loss.budget': (WEIGHTS[0],)}
  name = f'{config.seed}_{config.num_seeds}'
  sweep(config, axes, folder / f'sweep_{name}')
  (variant,) = grid.variants(config, axes)
  (folder / f'sweep_{name}' / variant.name).rename(folder / name)


def main() -> None:
  """Prints the three wall times."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--config', default='mosei_dyn')
  parser.add_argument('--seeds', type=int, default=10)
  parser.add_argument('--epochs', type=int, default=1)
  parser.add_argument('--singles', action='store_true')
  parser.add_argument('--json', type=Path)
  options = parser.parse_args()
  cli.start_logging()
  many = settings(options.config, options.epochs, options.seeds)
  one = settings(options.config, options.epochs, 1)
  weights = {'loss.budget': WEIGHTS}
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    train_experts(many, folder)
    for seed in range(options.seeds if options.singles else 0):
      config = one.copy_and_resolve_references()
      config.seed = seed
      train_experts(config, folder)
    singles = {'seed': tuple(range(options.seeds)), **weights}
    seconds = {
      'one program': timed(many, weights, folder, folder / 'a', 0),
      'one program per weight': timed(many, weights, folder, folder / 'b', 1),
    }
    if options.singles:
      found = timed(one, singles, folder, folder / 'c', 1)
      seconds['one run after another'] = found
  slowest = list(seconds.values())[-1]
  rows = [
    row(
      f'{options.config}/{options.seeds} seeds x {len(WEIGHTS)} weights/{how}',
      value,
      's',
      baseline=slowest,
      ratio=slowest / value,
    )
    for how, value in seconds.items()
  ]
  print(f'{device_name()}; {options.config}, {options.epochs} epochs')
  for found in rows:
    print(f'{found["name"]:60} {found["value"]:8.1f} s  {found["ratio"]:.1f}x')
  if options.json:
    write_rows(options.json, rows)


if __name__ == '__main__':
  main()
