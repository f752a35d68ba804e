"""A process that trains as `python -m jdyn.train` does, until something befalls it.

It is forked from one that has imported everything, which takes longer than to train.
"""

import errno
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import jax

# Imported by jdyn only where it needs them, but here before the fork.
import orbax.checkpoint  # noqa: F401
import sklearn.datasets  # noqa: F401
import tensorboardX  # noqa: F401
from ml_collections import ConfigDict

from jdyn.training import cli, loop
from tests.faults.kills import AtWrite, flags


def train(
  config: dict[str, Any],
  workdir: Path,
  cache: Path,
  devices: int,
  log: Path,
  at_write: AtWrite | None,
) -> None:
  """Trains; what it would write to stderr goes to `log`."""
  with open(log, 'wb') as file:
    os.dup2(file.fileno(), sys.stderr.fileno())
    os.dup2(file.fileno(), sys.stdout.fileno())
  os.environ['XLA_FLAGS'] = flags(devices)
  if at_write is not None:
    sys.addaudithook(_Hook(workdir, at_write))
  loop.write_report = lambda workdir: workdir / 'report.html'  # It takes long.
  cli.start_logging()
  cli.use_cache(str(cache))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  cli.run(ConfigDict(config).lock(), workdir, time.monotonic())


class _Hook:
  """Sees every call of Python that changes a file, before it is made."""

  _MAKES = ('os.mkdir', 'os.rename', 'os.truncate')
  _REMOVES = ('os.remove', 'os.rmdir')

  def __init__(self, workdir: Path, fault: AtWrite):
    self._workdir, self._fault, self._seen = str(workdir), fault, 0

  def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
    makes = event in self._MAKES
    if event == 'open':
      makes = bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if not (makes or event in self._REMOVES):
      return
    path = arguments[0]
    if isinstance(path, int) or not os.fsdecode(path).startswith(self._workdir):
      return
    self._seen += 1
    if self._seen <= self._fault.number:
      return
    if self._fault.what == 'kill':
      os.kill(os.getpid(), signal.SIGKILL)
    elif makes:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fsdecode(path))
