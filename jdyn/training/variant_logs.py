"""The logs of a stage's variants: each as if it had been trained by itself."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jdyn import build
from jdyn.training import hosts
from jdyn.training.context import Context
from jdyn.training.logging import LogMark, MetricLog

_LOG = logging.getLogger(__name__)

# Share of validation examples below which a path counts as dead.
_COLLAPSE = 0.01


class VariantLogs:
  """One `MetricLog` per variant; an ordinary run has one."""

  def __init__(
    self,
    stage: build.Stage,
    contexts: Sequence[Context],
    step: int,
    marks: Sequence[Mapping[str, Any]],
  ):
    """Opens the logs, to be gone on with from a step.

    Args:
      stage: that all variants share.
      contexts: of the variants.
      step: at which training resumes.
      marks: what `marks` returned when that step was saved; none at the start.

    Raises:
      DataError: a log is not what it was then.
    """
    self._stage = stage
    self._names = [context.workdir.name for context in contexts]
    self._warned: list[set[str]] = [set() for _ in contexts]
    folders = [context.folder(stage) for context in contexts]
    found = [LogMark(**mark) for mark in marks] or [LogMark()] * len(contexts)
    # The first process alone writes; all have the same numbers.
    self._logs = [
      _open(folder, step, mark)
      for folder, mark in zip(folders, found, strict=True)
      if hosts.is_first()
    ]

  def marks(self) -> list[dict[str, Any]]:
    """How far the logs have come, which are on disk then; for a checkpoint."""
    return [dataclasses.asdict(log.mark()) for log in self._logs]

  def write(self, records: Mapping[str, Any], stopped: np.ndarray) -> None:
    """Writes a line per variant.

    Args:
      records: what all variants share, or arrays with one value per member.
      stopped: `[M]`; a variant all of whose seeds have stopped would have ended by
        itself, and gets no line.
    """
    size = len(self._logs)
    for v, log in enumerate(self._logs):
      if stopped[v::size].all():
        continue
      own = {
        name: value[v::size].tolist() if isinstance(value, np.ndarray) else value
        for name, value in records.items()
      }
      log.write(own)
      if own['split'] == 'valid':
        self._warn_of_collapse(own, v)

  def close(self) -> None:
    """Closes all files."""
    for log in self._logs:
      log.close()

  def _warn_of_collapse(self, record: Mapping[str, Any], v: int) -> None:
    paths = self._stage.costs.paths
    if getattr(self._stage.model, 'policy', 'learned') != 'learned':
      return  # No gate was asked.
    shares = {path: float(np.mean(record[f'usage/{path}'])) for path in paths}
    dead = {path for path, share in shares.items() if share < _COLLAPSE}
    if new := sorted(dead - self._warned[v]):
      _LOG.warning(
        '%s, stage %s: the gate hardly ever chooses %s (mean shares %s). If that is '
        'not wanted, change loss.budget, set loss.balance or use holdout.',
        self._names[v],
        self._stage.name,
        new,
        {path: round(share, 3) for path, share in shares.items()},
      )
      self._warned[v] |= dead


def _open(folder: Path, step: int, mark: LogMark) -> MetricLog:
  folder.mkdir(parents=True, exist_ok=True)
  return MetricLog(folder, step, mark)
