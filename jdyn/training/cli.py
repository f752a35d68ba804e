"""What the commands share: logging, the compilation cache, and clean exits."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import jax
from absl import logging as absl_logging
from ml_collections import ConfigDict

from jdyn.build import ConfigError
from jdyn.data.dataset import DataError
from jdyn.training import hosts
from jdyn.training.checkpoint import CheckpointError
from jdyn.training.context import Preempted
from jdyn.training.guard import NonFiniteError
from jdyn.training.loop import train
from jdyn.training.workdir import WorkdirError

_LOG = logging.getLogger('jdyn')

T = TypeVar('T')


def start_logging() -> None:
  """Shows jdyn's own messages on stderr, and only warnings of others."""
  absl_logging.set_verbosity(absl_logging.WARNING)
  absl_logging.get_absl_logger().addFilter(_is_news)
  sys.unraisablehook = _show_unraisable
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S'))
  _LOG.handlers, _LOG.propagate = [handler], False
  _LOG.setLevel(logging.INFO)


def _is_news(record: logging.LogRecord) -> bool:
  """Orbax logs the traceback of what it raises too."""
  return not (record.exc_info and 'orbax' in Path(record.pathname).parts)


def _show_unraisable(unraisable) -> None:
  """Once a save has failed, Orbax's other writes call back into a loop it closed."""
  if str(unraisable.exc_value) != 'Event loop is closed':
    sys.__unraisablehook__(unraisable)


def join_hosts(distributed: bool, coordinator: str, count: int, index: int) -> None:
  """Joins the other processes of a run, if there are any.

  Exits with 1 if they do not meet.

  Args:
    distributed: there are, and JAX can find out about them.
    coordinator: `host:port` of the first; empty if JAX finds out.
    count: of processes; 0 likewise.
    index: of this one; -1 likewise.
  """
  if not (distributed or coordinator):
    return
  try:
    hosts.start(coordinator or None, count or None, None if index < 0 else index)
  except (ValueError, RuntimeError) as error:
    sys.exit(
      f'error: the processes of the run did not meet ({error}). Give --coordinator, '
      '--num_processes and --process_id, or start it where JAX finds them out: under '
      'SLURM, Open MPI, Kubernetes or on a TPU slice.'
    )
  if not hosts.is_first():
    _LOG.setLevel(logging.WARNING)
    _LOG.handlers[0].setFormatter(
      logging.Formatter(f'%(asctime)s process {jax.process_index()}: %(message)s')
    )


def use_cache(folder: str) -> None:
  """Keeps compiled programs in `folder`; empty: as JAX is set up."""
  if folder:
    jax.config.update('jax_compilation_cache_dir', str(Path(folder).expanduser()))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)
    jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


# What the user can mend: shown as one line, not as a traceback.
_MENDABLE = (
  CheckpointError,
  ConfigError,
  DataError,
  hosts.HostError,
  NonFiniteError,
  WorkdirError,
)


def run(
  config: ConfigDict, workdir: Path, started: float, stopped_status: int = 0
) -> None:
  """Trains; exits with `stopped_status` when asked to stop, and as `finish` does."""
  report = finish(lambda: train(config, workdir, started), stopped_status)
  if hosts.is_first():
    print(f'Report: {report}')


def finish(job: Callable[[], T], stopped_status: int = 0) -> T:
  """What a job returns.

  Exits with `stopped_status` when it was asked to stop, and with 1 on what the user can
  mend.
  """
  try:
    return job()
  except Preempted as notice:
    _LOG.info('%s', notice)
    sys.exit(stopped_status)
  except _MENDABLE as error:
    sys.exit(f'error: {error}')
