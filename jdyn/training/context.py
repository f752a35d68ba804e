"""What the stages of one run share."""

import dataclasses
import logging
import signal
import time
from pathlib import Path

import jax
from ml_collections import ConfigDict

from jdyn import build
from jdyn.data.dataset import Dataset
from jdyn.training.parallel import Parallel
from jdyn.training.workdir import Lock

_LOG = logging.getLogger(__name__)


class Preempted(Exception):  # noqa: N818
  """The process was asked to end; everything is saved and the run can continue."""


@dataclasses.dataclass(frozen=True)
class Context:
  """What the stages of one run share.

  Attributes:
    config: of the run.
    run: its own keys.
    dataset: real, bundled or stand-in.
    parallel: how the batch lies on the devices.
    workdir: of the run.
    stop: says whether the process was asked to end.
    first_step: says once how long it took to get to the first training step.
    lock: of `workdir`, or of the folder around it.
  """

  config: ConfigDict
  run: build.Run
  dataset: Dataset
  parallel: Parallel
  workdir: Path
  stop: 'StopFlag'
  first_step: 'FirstStep'
  lock: Lock

  def folder(self, stage: build.Stage) -> Path:
    """Where a stage keeps its files."""
    return self.workdir / 'stages' / stage.name


class FirstStep:
  """Logs, once, the time from the start of the process to the first step."""

  def __init__(self, started: float):
    """`started` is `time.monotonic()` at the start of the process."""
    self._started: float | None = started

  def report(self) -> None:
    """To be called after every compiled call; only the first one says something."""
    if self._started is None:
      return
    seconds, self._started = time.monotonic() - self._started, None
    cache = jax.config.jax_compilation_cache_dir or 'none'
    _LOG.info('First training step %.1f s after start (cache: %s).', seconds, cache)


class StopFlag:
  """Set by SIGTERM; training looks at it between compiled calls."""

  def __init__(self):
    """Takes over SIGTERM until `restore`."""
    self.set = False
    self._before = signal.signal(signal.SIGTERM, self._on_signal)

  def _on_signal(self, number, frame) -> None:
    del number, frame  # There is only one.
    self.set = True

  def restore(self) -> None:
    """Gives SIGTERM back."""
    signal.signal(signal.SIGTERM, self._before)
