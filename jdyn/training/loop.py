"""Trains a config: its stages in order, each resumable, and its results."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jdyn import build
from jdyn.data.dataset import Split
from jdyn.data.holdout import hold_out
from jdyn.data.load import load
from jdyn.evaluators.report import write_report
from jdyn.evaluators.run_files import is_finished
from jdyn.training import hosts, variables
from jdyn.training.context import Context, FirstStep, StopFlag
from jdyn.training.parallel import Parallel
from jdyn.training.stage import check_stage, train_stage
from jdyn.training.workdir import describe, held, naming_changes


def train(config: ConfigDict, workdir: Path, started: float | None = None) -> Path:
  """Trains all stages of a config that are not finished, and writes the report.

  Args:
    config: a locked run config (`configs/base.py`).
    workdir: its folder; the same command continues what it holds.
    started: `time.monotonic()` at the start of the process.

  Returns:
    The path of the report.

  Raises:
    ConfigError: the config cannot run.
    DataError: the data is not what its format promises.
    WorkdirError: the folder is in use or holds another run.
    NonFiniteError: a loss or gradient was not finite.
    Preempted: SIGTERM came; the state is saved.
  """
  with opened(config, workdir, started) as (stage, context):
    check(stage, context)
    plain = config.to_dict()
    hosts.first_alone(lambda: describe(workdir, plain, context.dataset))
    _train_tree(stage, context.dataset.splits['train'], context)
    report = hosts.first_alone(lambda: write_report(workdir))
    return report or workdir / 'report.html'


@contextlib.contextmanager
def opened(
  config: ConfigDict, workdir: Path, started: float | None = None
) -> Iterator[tuple[build.Stage, Context]]:
  """The main stage of a config and its context, while the folder is locked.

  Raises:
    ConfigError: the config cannot run.
    DataError: the data is not what its format promises.
    WorkdirError: the folder is in use, or cannot be written, now or any more.
  """
  run, source = build.run(config), build.source(config)
  parallel = Parallel(run.parallel)
  with contextlib.ExitStack() as stack:
    lock = stack.enter_context(held(workdir))
    stop = StopFlag()
    stack.callback(stop.restore)
    cache = workdir / 'stand_in'
    with naming_changes(workdir, run.root):
      # A stand-in is written by the first process that looks for it.
      dataset = hosts.first_ahead(lambda: load(source, run.root, cache=cache))
    stage = build.stage(config, dataset.spec, parallel.axis_name)
    first = FirstStep(started or time.monotonic())
    yield stage, Context(config, run, dataset, parallel, workdir, stop, first, lock)


def _train_tree(stage: build.Stage, train: Split, context: Context) -> Any:
  """The stage's best variables `[S, ...]`, after those of its experts.

  Args:
    stage: to be trained, if it is not finished yet.
    train: the examples that it may see.
    context: of the run.
  """
  splits, found = train_before(stage, train, context)
  folder = context.folder(stage)
  if not hosts.from_first(is_finished(folder)):
    train_stage(stage, splits, found, context)
  num_seeds = len(context.run.seeds)
  return variables.load_best(folder, stage, context.dataset.spec, num_seeds)


def train_before(
  stage: build.Stage, train: Split, context: Context
) -> tuple[dict[str, Split], dict[str, Any]]:
  """Trains those stages before a stage that are not finished.

  Args:
    stage: that comes after them.
    train: the examples that it and they may see.
    context: of the run.

  Returns:
    The splits as the stage itself may see them, and the best variables `[S, ...]` of
    the stages before it, by name.
  """
  own, theirs = share(train, stage)
  found = {
    name: _train_tree(each, theirs if name in stage.experts else own, context)
    for name, each in sorted(stage.before.items())
  }
  return {**context.dataset.splits, 'train': own}, found


def check(stage: build.Stage, context: Context) -> None:
  """Finds what of a run would fail later, before anything is compiled or trained.

  Args:
    stage: the main one.
    context: of the run.

  Raises:
    ConfigError: the data or the devices do not fit the config.
    CheckpointError: variables to start with are not there.
  """
  _check_tree(stage, context.dataset.splits['train'], context)


def _check_tree(stage: build.Stage, train: Split, context: Context) -> None:
  """Checks a stage, which may see the examples `train`, after those before it."""
  own, theirs = share(train, stage)
  for name, each in sorted(stage.before.items()):
    _check_tree(each, theirs if name in stage.experts else own, context)
  if not hosts.from_first(is_finished(context.folder(stage))):
    check_stage(stage, {**context.dataset.splits, 'train': own}, context)


def share(train: Split, stage: build.Stage) -> tuple[Split, Split]:
  """What the stage itself and what its experts train on; the same without holdout."""
  if not (stage.holdout and stage.experts):
    return train, train
  strata = train.label
  if strata.ndim > 1 or not np.issubdtype(strata.dtype, np.integer):
    strata = np.zeros(len(train), np.int32)
  # Seed 0 whatever the run's: all seeds and both kinds of stage must agree.
  theirs, own = hold_out(strata, stage.holdout, seed=0)
  return train.select(own), train.select(theirs)
