"""The files that a run leaves, and whether they are still what it wrote.

Its JSON files are sealed (`jdyn.data.sealed`). A stage's `result.json` is written last
and vouches for the files beside it: the stage is finished once it is there, and who
reads one of them compares it first.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jdyn.data import sealed
from jdyn.evaluators.predictions import Predictions

RESULT = 'result.json'
"""Scores of a finished stage, and the hashes of what is listed below."""

LOG = 'metrics.jsonl'
"""Metrics of training; a converted model has none."""

LATENCY = 'latency.json'
"""Measured times of the main model, if `python -m jdyn.evaluate --time` wrote them."""


def predictions_file(split: str) -> str:
  """Name of the predictions of a stage on a split."""
  return f'predictions_{split}.npz'


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
  """Writes `result.json` of a stage, whose other files are complete."""
  files = [*folder.glob(predictions_file('*')), *folder.glob(LOG)]
  sealed.write_sealed(folder / RESULT, result, files)


def read_json(path: Path) -> dict[str, Any]:
  """A JSON file of a run.

  Raises:
    DataError: it is missing, damaged or not sealed.
  """
  return sealed.read_sealed(path, remedy(path))


def read_predictions(folder: Path, split: str) -> Predictions:
  """Predictions of a finished stage.

  Raises:
    DataError: they are not those of which its result speaks, or that is damaged.
  """
  name = predictions_file(split)
  check_stage(folder, name)
  return Predictions.load(folder / name)


def is_finished(folder: Path) -> bool:
  """Whether a stage left its result.

  Raises:
    DataError: it did, but a file is missing or damaged.
  """
  finished = (folder / RESULT).exists()
  if finished:
    check_stage(folder)
  return finished


def check_stage(folder: Path, *names: str) -> None:
  """Compares files of a finished stage, all if none is named, with its result.

  Raises:
    DataError: one is missing or damaged.
  """
  path = folder / RESULT
  sealed.check_files(path, names or None, remedy(path))


def remedy(path: Path) -> str:
  """What to do about a damaged file of a run."""
  made = path.parent if path.parent.parent.name == 'stages' else path
  again = (
    'measure again with `python -m jdyn.evaluate --time`'
    if path.name == LATENCY
    else 'repeat the training command with the same --workdir'
  )
  return f'Restore it from a copy, or delete {made} and {again}.'
