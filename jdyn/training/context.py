"""What the stages of one run share."""

import dataclasses
import signal
from pathlib import Path

from ml_collections import ConfigDict

from jdyn import build
from jdyn.data.dataset import Dataset
from jdyn.training.parallel import Parallel


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
    started: `time.time()` at the start of the process, for the first-step line.
  """

  config: ConfigDict
  run: build.Run
  dataset: Dataset
  parallel: Parallel
  workdir: Path
  stop: 'StopFlag'
  started: float

  def folder(self, stage: build.Stage) -> Path:
    """Where a stage keeps its files."""
    return self.workdir / 'stages' / stage.name


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
