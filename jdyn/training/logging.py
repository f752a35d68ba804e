"""What a run writes down while it trains, and the lines that commands show."""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def write_json(path: Path, value: Any) -> None:
  """Writes a JSON file atomically."""
  partial = path.with_suffix(path.suffix + '.partial')
  partial.write_text(json.dumps(value, indent=1, sort_keys=True) + '\n')
  os.replace(partial, path)


def read_lines(path: Path) -> list[dict[str, Any]]:
  """The records of a JSON-lines file; none if it does not exist.

  A last line that a kill cut off in its middle does not count.
  """
  if not path.exists():
    return []
  lines = path.read_text().splitlines(keepends=True)
  return [json.loads(line) for line in lines if line.endswith('\n')]


class MetricLog:
  """Metrics of one stage: JSON lines, and TensorBoard.

  The lines hold no times, so a resumed run writes the same bytes as one that was
  never stopped.
  """

  def __init__(self, folder: Path, resume_step: int):
    """Drops what was logged after the step at which training resumes."""
    from tensorboardX import SummaryWriter  # Not needed for `--help`.

    self._path = folder / 'metrics.jsonl'
    kept = [r for r in read_lines(self._path) if r['step'] <= resume_step]
    partial = self._path.with_suffix('.partial')
    partial.write_text(''.join(_line(record) for record in kept))
    os.replace(partial, self._path)
    self._file = open(self._path, 'a')  # noqa: SIM115
    self._board = SummaryWriter(
      str(folder / 'tensorboard'), purge_step=resume_step + 1 if resume_step else None
    )

  def write(self, record: Mapping[str, Any]) -> None:
    """One line; values are numbers, strings, or one number per seed."""
    self._file.write(_line(record))
    self._file.flush()
    split = record['split']
    for name, value in record.items():
      if isinstance(value, Sequence) and not isinstance(value, str):
        self._board.add_scalar(f'{split}/{name}', np.mean(value), record['step'])

  def close(self) -> None:
    """Closes both files."""
    self._file.close()
    self._board.close()


def _line(record: Mapping[str, Any]) -> str:
  return json.dumps(record, sort_keys=True) + '\n'


class Progress:
  """A line with loss, score, examples per second and time left.

  On a terminal it is rewritten in place; elsewhere there is a line per epoch.
  """

  def __init__(self, stage: str, total_steps: int, first_step: int, batch: int):
    """`batch` is the number of examples per step, over all seeds."""
    self._stage, self._total, self._batch = stage, total_steps, batch
    self._first, self._started = first_step, time.monotonic()
    self._live = sys.stderr.isatty()

  def show(self, step: int, text: str, *, epoch_done: bool) -> None:
    """Shows where training is."""
    elapsed = max(time.monotonic() - self._started, 1e-6)
    done = max(step - self._first, 1)
    rate = done * self._batch / elapsed
    left = (self._total - step) * elapsed / done
    line = f'[{self._stage}] {text}  {rate:,.0f} examples/s  {_clock(left)} left'
    if self._live:
      print(f'\r\x1b[K{line}', end='', file=sys.stderr, flush=True)
    elif epoch_done:
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
