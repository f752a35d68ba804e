"""`python -m jdyn.train --config FILE`: trains what a config describes.

The same command continues a run that was stopped. Every key of the config can be
set: `--config.batch_size=64`.
"""

import time

_STARTED = time.monotonic()

import os  # noqa: E402
from pathlib import Path  # noqa: E402

from absl import app, flags  # noqa: E402
from ml_collections import config_flags  # noqa: E402

from jdyn.training.config_file import start  # noqa: E402

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'The config file, for example configs/digits_dyn.py.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', '', 'Folder of the run; runs/<name of the config> if not given.'
)
_CACHE = flags.DEFINE_string(
  'compilation_cache',
  os.path.join('~', '.cache', 'jdyn', 'xla'),
  'Folder for compiled programs; empty switches the cache off.',
)
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed',
  False,
  'Several processes run this command together, on one machine or many; JAX finds out '
  'about them under SLURM, Open MPI, Kubernetes and on TPU slices.',
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator', '', 'host:port of process 0, where JAX does not find it out.'
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', 0, 'How many processes there are, likewise.', lower_bound=0
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', -1, 'Number of this process, from 0, likewise.', lower_bound=-1
)
_STOPPED_STATUS = flags.DEFINE_integer(
  'stopped_status',
  0,
  'Exit status after SIGTERM, when the state is saved; schedulers that start the '
  'command again need another one than that of a finished run.',
  lower_bound=0,
  upper_bound=125,
)


def main(argv) -> None:
  """Trains, and says where the report is."""
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments {argv[1:]}; keys start with --config.')
  # Imported here, so that `--help` and a mistyped flag answer at once.
  from jdyn.training import cli

  cli.start_logging()
  cli.use_cache(_CACHE.value)
  cli.join_hosts(
    _DISTRIBUTED.value, _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
  )
  name = Path(config_flags.get_config_filename(flags.FLAGS['config'])).stem
  workdir = Path(_WORKDIR.value or Path('runs') / name)
  cli.run(_CONFIG.value, workdir, _STARTED, _STOPPED_STATUS.value)


if __name__ == '__main__':
  start(main)
