"""Reads the folder of a finished run into plain values."""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jdyn.data.dataset import DataError
from jdyn.evaluators.predictions import Predictions
from jdyn.evaluators.run_files import (
  LATENCY,
  LOG,
  RESULT,
  check_stage,
  predictions_file,
  read_json,
  read_predictions,
  remedy,
)
from jdyn.tasks import TASKS, Regression, Task

MAIN = 'main'
"""Name of the stage that the run is about; the others train its experts."""

SPLITS = ('test', 'valid')
"""The splits on which every stage is scored."""

_SWEEP = 'sweep.json'


@dataclasses.dataclass(frozen=True)
class Stage:
  """What one stage left.

  Attributes:
    name: `main`, or the path of the expert that it trained.
    seeds: of the run, in the order of every axis `S`.
    best_epoch: of each seed, from 1; 0 where the variables were converted.
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
  seeds: tuple[int, ...]
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
  def trained(self) -> bool:
    """Whether the variables come from training, which has a log, or were converted."""
    return any(self.best_epoch)

  @property
  def paths(self) -> tuple[str, ...]:
    """The paths that the gate chooses from, cheapest first."""
    return tuple(sorted(self.path_macs, key=lambda path: self.path_macs[path]))


@dataclasses.dataclass(frozen=True)
class Latency:
  """Measured times of the main model.

  Attributes:
    device: that they were measured on.
    versions: by package.
    seed: whose variables and shares of the paths were used.
    batches: what `TrainedRun.time` returned, by batch size.
  """

  device: str
  versions: Mapping[str, str]
  seed: int
  batches: Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Run:
  """What a run left.

  Attributes:
    workdir: its folder.
    config: all of its config.
    model: name of the main model's kind.
    environment: versions, devices and whatever else was noted.
    dataset: name of the dataset.
    origin: `real`, `bundled` or `synthetic stand-in`.
    hashes: SHA-256 by file of the dataset.
    sizes: examples of `train`, `valid` and `test`.
    class_names: of the task's outputs; empty for regression.
    task: judges predictions.
    stages: by name, from the cheapest to the dearest, the main one last.
    latency: None if it was not measured.
  """

  workdir: Path
  config: Mapping[str, Any]
  model: str
  environment: Mapping[str, Any]
  dataset: str
  origin: str
  hashes: Mapping[str, str]
  sizes: Mapping[str, int]
  class_names: tuple[str, ...]
  task: Task
  stages: Mapping[str, Stage]
  latency: Latency | None

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
  if (workdir / _SWEEP).exists():
    raise DataError(
      f'{workdir / _SWEEP}: this is the folder of a sweep; give one of its runs, which '
      'are the folders in it, or look at its results.html.'
    )
  config = _read_json(workdir / 'config.json')
  with _fields_of(workdir / 'config.json'):
    model = config['model']['name']
  environment = _read_json(workdir / 'environment.json')
  path = workdir / 'data.json'
  data = _read_json(path)
  stages = [_read_stage(folder) for folder in _stage_folders(workdir)]
  stages.sort(key=lambda stage: (stage.name == MAIN, stage.total_macs))
  with _fields_of(path):
    spec = data['spec']
    run = Run(
      workdir=workdir,
      config=config,
      model=model,
      environment=environment,
      dataset=data['name'],
      origin=data['origin'],
      hashes=dict(data['hashes']),
      sizes={split: data['sizes'][split] for split in ('train', 'valid', 'test')},
      class_names=tuple(spec['class_names']),
      task=TASKS[spec['task']](num_outputs=spec['num_outputs']),
      stages={stage.name: stage for stage in stages},
      latency=_read_latency(workdir / LATENCY, stages[-1]),
    )
    outputs = 0 if isinstance(run.task, Regression) else run.task.num_outputs
    named = len(run.class_names) == outputs
    _require(named, path, f'{len(run.class_names)} class names for {outputs} classes')
    for stage in stages:
      _check_belongs(stage, run)
  return run


def _stage_folders(workdir: Path) -> list[Path]:
  """The folders of all stages."""
  folders = sorted(path for path in (workdir / 'stages').glob('*') if path.is_dir())
  if MAIN not in (folder.name for folder in folders):
    raise _missing(workdir / 'stages' / MAIN)
  return folders


def _read_stage(folder: Path) -> Stage:
  path = folder / RESULT
  result = _read_json(path)
  predictions = {split: read_predictions(folder, split) for split in SPLITS}
  with _fields_of(path):
    seeds = tuple(result['seeds'])
    log, trained = folder / LOG, any(result['best_epoch'])
    train, valid = _read_log(log, len(seeds)) if trained else ({}, {})
    stage = Stage(
      name=folder.name,
      seeds=seeds,
      best_epoch=tuple(result['best_epoch']),
      select=result['select'],
      parameters=result['parameters'],
      total_macs=result['macs']['total'],
      path_macs=dict(result['macs']['paths']),
      scores={split: result['splits'][split] for split in SPLITS},
      predictions=predictions,
      train=train,
      valid=valid,
    )
  if stage.trained:
    _check_log(stage, log)
  return stage


def _check_log(stage: Stage, path: Path) -> None:
  """Raises DataError if the log lacks what the page shows of it."""
  for name in (stage.select, *(f'usage/{which}' for which in stage.paths)):
    _require(name in stage.valid, path, f'validation has no {name!r}')
  _require('loss' in stage.train, path, "training has no 'loss'")
  epochs = stage.valid[stage.select].shape[1]
  known = all(1 <= epoch <= epochs for epoch in stage.best_epoch)
  _require(known, path, f'{epochs} epochs, but the best ones are {stage.best_epoch}')


def _read_latency(path: Path, main: Stage) -> Latency | None:
  if not path.exists():
    return None
  found = _read_json(path)
  with _fields_of(path):
    latency = Latency(
      device=str(found['device']),
      versions=dict(found['versions']),
      seed=found['seed'],
      batches=list(found['batches']),
    )
    for batch in latency.batches:
      same = sorted(batch['paths']) == sorted(main.path_macs)
      _require(same, path, f'times of paths {sorted(batch["paths"])}')
      names = ('size', 'dense', 'gated', 'gated_macs', 'realised')
      numbers = [*(batch[name] for name in names), *batch['paths'].values()]
      positive = all(0 < number < math.inf for number in numbers)
      _require(positive and isinstance(batch['policy'], str), path, f'{batch}')
  return latency


def _check_belongs(stage: Stage, run: Run) -> None:
  """Raises DataError if a stage's files are not those of one run."""
  folder = run.workdir / 'stages' / stage.name
  same_seeds = stage.seeds == run.main.seeds
  _require(same_seeds, folder / RESULT, f'other seeds than stage {MAIN!r}')
  for split, predictions in stage.predictions.items():
    path = folder / predictions_file(split)
    # An expert has only seen the examples that have its modality.
    size = run.sizes[split] if stage is run.main else stage.scores[split]['n']
    want = (len(stage.seeds), size, *run.task.kept_shape)
    for logits in (predictions.logits, *predictions.expert_logits.values()):
      _require(
        logits.shape == want,
        path,
        f'logits {list(logits.shape)} where the run has [seeds, examples, outputs] = '
        f'{list(want)}',
      )
    _require(len(predictions.label) == want[1], path, 'labels of other examples')
    if predictions.gate_logits is not None:
      same = sorted(predictions.paths) == sorted(stage.path_macs)
      shape = (*want[:2], len(stage.path_macs))
      _require(
        same and predictions.gate_logits.shape == shape,
        path,
        f'gate logits {list(predictions.gate_logits.shape)} of {predictions.paths}',
      )
    for name in stage.path_macs:
      known = name in predictions.weights and name in predictions.expert_logits
      _require(known, path, f'nothing for path {name!r}')


def _read_log(
  path: Path, num_seeds: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Metrics of training and of validation by name, each `[S, epochs]`."""
  check_stage(path.parent, path.name)
  records: dict[str, list[dict[str, Any]]] = {'train': [], 'valid': []}
  with _fields_of(path):
    for line in path.read_text(encoding='utf-8').splitlines():
      record = json.loads(line)
      records[record['split']].append(record)
  _require(records['train'] and records['valid'], path, 'no whole epoch')
  with _fields_of(path):
    valid = {
      name: np.array([record[name] for record in records['valid']], np.float64).T
      for name in _metric_names(records['valid'][0], num_seeds)
    }
    return _train_epochs(records['train'], num_seeds), valid


def _train_epochs(
  records: Sequence[Mapping[str, Any]], num_seeds: int
) -> dict[str, np.ndarray]:
  """One mean per epoch; a record counts by its steps, and not where it has no value."""
  steps = np.diff([record['step'] for record in records], prepend=0)
  # No record crosses the border of an epoch; the last one of epoch 1 ends at 1.0.
  epochs = np.ceil([record['epoch'] - 1e-6 for record in records])
  share = np.equal.outer(np.unique(epochs), epochs) * steps  # [epochs, records]
  found = {}
  # Steps are counted as `skipped` only while the run was told to leave such out.
  for name in set(_metric_names(records[0], num_seeds)).intersection(*records):
    values = np.array([record[name] for record in records], np.float64)  # null: NaN
    known = np.isfinite(values)
    with np.errstate(invalid='ignore'):  # An epoch without any value has none: NaN.
      found[name] = (share @ np.where(known, values, 0) / (share @ known)).T
  return found


def _metric_names(record: Mapping[str, Any], num_seeds: int) -> list[str]:
  """The names that hold one number per seed."""
  return sorted(
    name
    for name, value in record.items()
    if isinstance(value, list) and len(value) == num_seeds
  )


def _read_json(path: Path) -> dict[str, Any]:
  if not path.exists():
    raise _missing(path)
  return read_json(path)


@contextmanager
def _fields_of(path: Path) -> Iterator[None]:
  """Turns an absent or wrongly typed field into an error that names the file."""
  try:
    yield
  except DataError:
    raise
  except KeyError as error:
    raise _damaged(path, f'{error} is missing or unknown') from error
  except (TypeError, ValueError, AttributeError) as error:
    raise _damaged(path, f'a field of the wrong kind, {error}') from error


def _require(condition: Any, path: Path, what: str) -> None:
  if not condition:
    raise _damaged(path, what)


def _missing(path: Path) -> DataError:
  return DataError(
    f'{path} is missing, so this is not the folder of a finished run. Give the '
    '--workdir of one, or repeat the training command: it goes on where it stopped.'
  )


def _damaged(path: Path, what: str) -> DataError:
  return DataError(f'{path} is damaged or of another run: {what}. {remedy(path)}')
