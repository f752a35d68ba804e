"""`python -m jdyn.sweep --config FILE --sweep.config.KEY=V1,V2`: a grid of runs.

Every combination of the values of the swept keys is trained with every seed; what
varies by step (weights of the loss, the gate's temperature) in one compiled program,
the rest one after another. The same command continues a sweep that was stopped.
Leaves a folder per combination, as jdyn.train does, and one table of results.

  python -m jdyn.sweep --config configs/digits_dyn.py --seeds 10 --workdir runs/sweep
      --sweep.config.loss.budget=0,.1,.3 --sweep.config.gate.temperature.init_value=1,2
"""

import time

_STARTED = time.monotonic()

import os  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from absl import app, flags  # noqa: E402
from ml_collections import config_flags  # noqa: E402

from jdyn.training import grid  # noqa: E402
from jdyn.training.config_file import start  # noqa: E402

_SWEEP = '--sweep.'
_PREFIX = f'{_SWEEP}config.'

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'The config file, for example configs/digits_dyn.py.'
)
_SEEDS = flags.DEFINE_integer(
  'seeds', None, 'Seeds of each variant; short for --config.num_seeds.', lower_bound=1
)
_WORKDIR = flags.DEFINE_string(
  'workdir', '', 'Folder of the sweep; runs/<name of the config>_sweep if not given.'
)
_TOGETHER = flags.DEFINE_integer(
  'together',
  0,
  'At most so many variants in one program, where memory is short; 0: no limit.',
  lower_bound=0,
)
_CACHE = flags.DEFINE_string(
  'compilation_cache',
  os.path.join('~', '.cache', 'jdyn', 'xla'),
  'Folder for compiled programs; empty switches the cache off.',
)


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
  """What absl parses, and what is swept, as `key=values`."""
  swept = [argument for argument in arguments if argument.startswith(_SWEEP)]
  if wrong := [argument for argument in swept if not argument.startswith(_PREFIX)]:
    raise grid.GridError(f'{wrong[0]}: swept keys start with {_PREFIX}')
  rest = [argument for argument in arguments if argument not in swept]
  return rest, [argument.removeprefix(_PREFIX) for argument in swept]


def _main(swept: list[str], argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(
      f'Unknown arguments {argv[1:]}; keys start with --config or --sweep.config.'
    )
  config = _CONFIG.value
  if _SEEDS.value is not None:
    if 'num_seeds' in config_flags.get_override_values(flags.FLAGS['config']):
      sys.exit('error: --seeds and --config.num_seeds say the same; give one of them.')
    config.num_seeds = _SEEDS.value
  try:
    axes = grid.parse(config, swept)
  except grid.GridError as error:
    sys.exit(f'error: {error}')
  # Imported here, so that `--help` and a mistyped flag answer at once.
  from jdyn.training import cli
  from jdyn.training.sweep import sweep

  cli.start_logging()
  cli.use_cache(_CACHE.value)
  name = Path(config_flags.get_config_filename(flags.FLAGS['config'])).stem
  workdir = Path(_WORKDIR.value or Path('runs') / f'{name}_sweep')
  table = cli.finish(
    lambda: sweep(config, axes, workdir, _STARTED, together=_TOGETHER.value)
  )
  print(table.text())
  print(f'Written: {workdir / "results"}.{{csv,html}}')


def main() -> None:
  """Trains the grid, and prints its table."""
  try:
    arguments, swept = _split(sys.argv)
  except grid.GridError as error:
    sys.exit(f'error: {error}')
  start(lambda argv: _main(swept, argv), arguments)


if __name__ == '__main__':
  main()
