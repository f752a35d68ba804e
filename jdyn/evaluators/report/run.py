"""Reads the folder of a finished run into plain values."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jdyn.data.dataset import DataError
from jdyn.evaluators.predictions import Predictions
from jdyn.tasks import TASKS, Task

MAIN = 'main'
"""Name of the stage that the run is about; the others train its experts."""

SPLITS = ('test', 'valid')
"""The splits on which every stage is scored."""

_REMEDY = (
  'Repeat the training command with the same --workdir: it goes on where it was '
  'stopped.'
)
_DAMAGED = (
  'Restore it from a copy, or delete it and repeat the training command with the same '
  '--workdir.'
)


@dataclasses.dataclass(frozen=True)
class Stage:
  """What one stage left.

  Attributes:
    name: `main`, or the path of the expert that it trained.
    best_epoch: of each seed, from 1.
    select: validation score that picked it.
    parameters: number of trainable values of the whole model.
    total_macs: per example when all of the model is computed.
    path_macs: per example by path, gate included; empty without paths.
    scores: by split, what `score_all` returned.
    predictions: by split.
    train: by metric, `[S, epochs]`: means over the steps of each epoch.
    valid: by metric, `[S, epochs]`.
  """

  name: str
  best_epoch: tuple[int, ...]
  select: str
  parameters: int
  total_macs: int
  path_macs: Mapping[str, int]
  scores: Mapping[str, Any]
  predictions: Mapping[str, Predictions]
  train: Mapping[str, np.ndarray]
  valid: Mapping[str, np.ndarray]

  @property
  def paths(self) -> tuple[str, ...]:
    """The paths that the gate chooses from, cheapest first."""
    return tuple(sorted(self.path_macs, key=lambda path: self.path_macs[path]))


@dataclasses.dataclass(frozen=True)
class Run:
  """What a run left.

  Attributes:
    workdir: its folder.
    config: all of its config.
    environment: versions, devices and whatever else was noted.
    dataset: name of the dataset.
    origin: `real`, `bundled` or `synthetic stand-in`.
    hashes: SHA-256 by file of the dataset.
    sizes: examples by split.
    class_names: of the task's outputs; empty for regression.
    task: judges predictions.
    seeds: of the run, in the order of every axis `S`.
    stages: by name, the main one last.
  """

  workdir: Path
  config: Mapping[str, Any]
  environment: Mapping[str, Any]
  dataset: str
  origin: str
  hashes: Mapping[str, str]
  sizes: Mapping[str, int]
  class_names: tuple[str, ...]
  task: Task
  seeds: tuple[int, ...]
  stages: Mapping[str, Stage]

  @property
  def main(self) -> Stage:
    """The main stage."""
    return self.stages[MAIN]


def read_run(workdir: Path) -> Run:
  """Reads a run.

  Raises:
    DataError: a file is missing, damaged or of another run; the message names it
      and says what to do.
  """
  folders = _stage_folders(workdir)
  path = workdir / 'data.json'
  data = _read_json(path)
  main_path = workdir / 'stages' / MAIN / 'result.json'
  result = _read_json(main_path)
  with _fields_of(main_path):
    seeds = tuple(result['seeds'])
  with _fields_of(path):
    spec = data['spec']
    run = Run(
      workdir=workdir,
      config=_read_json(workdir / 'config.json'),
      environment=_read_json(workdir / 'environment.json'),
      dataset=data['name'],
      origin=data['origin'],
      hashes=dict(data['hashes']),
      sizes=dict(data['sizes']),
      class_names=tuple(spec['class_names']),
      task=TASKS[spec['task']](num_outputs=spec['num_outputs']),
      seeds=seeds,
      stages={folder.name: _read_stage(folder, seeds) for folder in folders},
    )
  return run


def _stage_folders(workdir: Path) -> list[Path]:
  """The folders of all stages, the main one last."""
  if not workdir.is_dir():
    raise DataError(f'{workdir} is not a folder; give the --workdir of a training run.')
  folders = sorted(path for path in (workdir / 'stages').glob('*') if path.is_dir())
  if MAIN not in (folder.name for folder in folders):
    raise DataError(f'{workdir / "stages" / MAIN} is missing. {_REMEDY}')
  return sorted(folders, key=lambda folder: folder.name == MAIN)


def _read_stage(folder: Path, seeds: Sequence[int]) -> Stage:
  path = folder / 'result.json'
  result = _read_json(path)
  log = _read_log(folder / 'metrics.jsonl', len(seeds))
  with _fields_of(path):
    if tuple(result['seeds']) != tuple(seeds):
      raise DataError(
        f'{path} has the seeds {result["seeds"]}, but the main stage has '
        f'{list(seeds)}; the folder mixes two runs. Train again in a new --workdir.'
      )
    stage = Stage(
      name=folder.name,
      best_epoch=tuple(result['best_epoch']),
      select=result['select'],
      parameters=result['parameters'],
      total_macs=result['macs']['total'],
      path_macs=dict(result['macs']['paths']),
      scores={split: result['splits'][split] for split in SPLITS},
      predictions={
        split: _read_predictions(folder / f'predictions_{split}.npz', len(seeds))
        for split in SPLITS
      },
      train=log['train'],
      valid=log['valid'],
    )
    missing = {stage.select} - set(stage.valid)
  if missing:
    raise DataError(
      f'{folder / "metrics.jsonl"} lacks the score {stage.select!r}, which {path} '
      f'says selected the best epoch. {_DAMAGED}'
    )
  return stage


def _read_predictions(path: Path, num_seeds: int) -> Predictions:
  if not path.is_file():
    raise DataError(f'{path} is missing. {_REMEDY}')
  predictions = Predictions.load(path)
  if predictions.num_seeds != num_seeds:
    raise DataError(
      f'{path} holds predictions of {predictions.num_seeds} seeds, but the run has '
      f'{num_seeds}. {_DAMAGED}'
    )
  return predictions


def _read_log(path: Path, num_seeds: int) -> dict[str, dict[str, np.ndarray]]:
  """Metrics by split and name, `[S, epochs]`."""
  records: dict[str, list[dict[str, Any]]] = {'train': [], 'valid': []}
  for number, line in enumerate(_read_text(path).splitlines(), start=1):
    try:
      record = json.loads(line)
      records[record['split']].append(record)
    except (ValueError, KeyError, TypeError) as error:
      raise DataError(
        f'{path}, line {number}: not a record of metrics ({error}). {_DAMAGED}'
      ) from error
  with _fields_of(path):
    if not (records['train'] and records['valid']):
      raise DataError(f'{path} holds no whole epoch. {_REMEDY}')
    return {
      'train': _train_epochs(records['train'], num_seeds),
      'valid': {
        name: np.array([record[name] for record in records['valid']]).T
        for name in _metric_names(records['valid'][0], num_seeds)
      },
    }


def _train_epochs(
  records: Sequence[Mapping[str, Any]], num_seeds: int
) -> dict[str, np.ndarray]:
  """One mean per epoch; a record counts by the number of its steps."""
  steps = np.diff([record['step'] for record in records], prepend=0)
  # No call crosses the border of an epoch; the last call of epoch 1 ends at 1.0.
  epochs = np.ceil([record['epoch'] - 1e-6 for record in records]).astype(int)
  share = np.equal.outer(np.unique(epochs), epochs) * steps  # [epochs, records]
  share = share / share.sum(axis=1, keepdims=True)
  return {
    name: (share @ np.array([record[name] for record in records])).T
    for name in _metric_names(records[0], num_seeds)
  }


def _metric_names(record: Mapping[str, Any], num_seeds: int) -> list[str]:
  """The names that hold one number per seed."""
  return sorted(
    name
    for name, value in record.items()
    if isinstance(value, list) and len(value) == num_seeds
  )


def _read_text(path: Path) -> str:
  try:
    return path.read_text(encoding='utf-8')
  except FileNotFoundError as error:
    raise DataError(f'{path} is missing. {_REMEDY}') from error
  except (OSError, UnicodeDecodeError) as error:
    raise DataError(f'{path} cannot be read ({error}). {_DAMAGED}') from error


def _read_json(path: Path) -> dict[str, Any]:
  try:
    value = json.loads(_read_text(path))
  except json.JSONDecodeError as error:
    raise DataError(f'{path} is not JSON ({error}). {_DAMAGED}') from error
  if not isinstance(value, dict):
    raise DataError(f'{path} is not a JSON object. {_DAMAGED}')
  return value


@contextmanager
def _fields_of(path: Path) -> Iterator[None]:
  """Turns an absent or wrongly typed field into an error that names the file."""
  try:
    yield
  except DataError:
    raise
  except KeyError as error:
    raise DataError(f'{path} lacks or has an unknown {error}. {_DAMAGED}') from error
  except (TypeError, ValueError, AttributeError) as error:
    raise DataError(f'{path} has a field of the wrong kind: {error}. {_DAMAGED}') from (
      error
    )
