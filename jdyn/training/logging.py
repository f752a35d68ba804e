"""What a run writes down while it trains, and the lines that commands show."""

import dataclasses
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jdyn.data.dataset import DataError
from jdyn.evaluators.run_files import LOG
from jdyn.training import hosts
from jdyn.training.board import Board


@dataclasses.dataclass(frozen=True)
class LogMark:
  """How far a log had come, and what it said until there.

  Attributes:
    size: bytes.
    sha256: of these.
  """

  size: int = 0
  sha256: str = hashlib.sha256().hexdigest()


class MetricLog:
  """Metrics of one stage: JSON lines, and TensorBoard.

  The lines hold no times, so a resumed run writes the same bytes as one that was
  never stopped.
  """

  def __init__(self, folder: Path, resume_step: int = 0, mark: LogMark = LogMark()):
    """Goes on where a checkpoint was saved, and drops what was logged after it.

    Args:
      folder: of the stage.
      resume_step: of the checkpoint; 0 at the start.
      mark: that was set before the checkpoint was saved.

    Raises:
      DataError: the log is not what it was then.
    """
    self._file = open(folder / LOG, 'a+b')  # noqa: SIM115
    self._file.seek(0)
    kept = self._file.read(mark.size)
    self._size, self._hash = mark.size, hashlib.sha256(kept)
    if self._hash.hexdigest() != mark.sha256:
      self._file.close()
      raise DataError(
        f'{folder / LOG}: damaged, or changed after the checkpoint of step '
        f'{resume_step} was saved. Restore it from a copy, or delete the checkpoints '
        'of this stage, so that it is trained from its start.'
      )
    self._file.truncate(mark.size)
    self._board = Board(folder / 'tensorboard', resume_step)

  def mark(self) -> LogMark:
    """What was logged so far, which is on disk then, for the next checkpoint."""
    os.fsync(self._file.fileno())
    return LogMark(self._size, self._hash.hexdigest())

  def write(self, record: Mapping[str, Any]) -> None:
    """One line; values are numbers, strings, or one number per seed."""
    line = (json.dumps(_without_nan(record), sort_keys=True) + '\n').encode()
    self._file.write(line)
    self._file.flush()
    self._size += len(line)
    self._hash.update(line)
    split = record['split']
    for name, value in record.items():
      if isinstance(value, Sequence) and not isinstance(value, str):
        self._board.scalar(f'{split}/{name}', np.mean(value), record['step'])

  def close(self) -> None:
    """Closes both files."""
    self._file.close()
    self._board.close()


def _without_nan(value: Any) -> Any:
  """JSON has no numbers that are not finite: null."""
  if isinstance(value, Mapping):
    return {key: _without_nan(item) for key, item in value.items()}
  if isinstance(value, list):
    return [_without_nan(item) for item in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value


class Progress:
  """A line with loss, score, examples per second and time left.

  On a terminal it is rewritten in place; elsewhere there is a line per epoch. The
  clock starts at the end of the first epoch, when all has been compiled.
  """

  def __init__(self, stage: str, total_steps: int, batch: int):
    """`batch` is the number of examples per step, over all seeds."""
    self._stage, self._total, self._batch = stage, total_steps, batch
    self._first: tuple[int, float] | None = None
    in_notebook = type(sys.stderr).__module__.startswith('ipykernel')
    self._shown = hosts.is_first()
    self._live = self._shown and (sys.stderr.isatty() or in_notebook)

  def show(self, step: int, text: str, *, epoch_done: bool) -> None:
    """Shows where training is."""
    line = f'[{self._stage}] {text}'
    if self._first is None:
      if epoch_done:
        self._first = step, time.monotonic()
    else:
      done = step - self._first[0]
      elapsed = max(time.monotonic() - self._first[1], 1e-6)
      left = (self._total - step) * elapsed / done
      rate = done * self._batch / elapsed
      line += f'  {rate:,.0f} examples/s  {_clock(left)} left'
    if self._live:
      print(f'\r\x1b[K{line}', end='', file=sys.stderr, flush=True)
    elif epoch_done and self._shown:
      print(line, file=sys.stderr, flush=True)

  def close(self) -> None:
    """Ends the line."""
    if self._live:
      print(file=sys.stderr)


class ProgressLine:
  """One line on stderr, rewritten in place at most ten times a second."""

  def __init__(self):
    self._due, self._what, self._start = 0.0, '', 0.0

  def __call__(self, what: str, done: int, total: int) -> None:
    """Shows how many there are, and when the others will be."""
    now = time.monotonic()
    if what != self._what:
      self._what, self._start = what, now
    if done == total or now >= self._due:
      self._due = now + 0.1
      left = (now - self._start) * (total - done) / done if done else 0
      text = f'{what} {done}/{total}' + (f', {left:.0f} s left' if left else '')
      print(f'\r{text:<60}', end='', file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02}:{seconds:02}' if hours else f'{minutes}:{seconds:02}'
