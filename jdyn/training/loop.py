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
from jdyn.training import variables
from jdyn.training.context import Context, FirstStep, StopFlag
from jdyn.training.parallel import Parallel
from jdyn.training.stage import train_stage
from jdyn.training.workdir import Lock, describe


def train(config: ConfigDict, workdir: Path, started: float | None = None) -> Path:
  """Trains all stages of a config that are not finished, and writes the report.

  Args:
    config: a locked run config (`configs/base.py`).
    workdir: its folder; the same command continues what it holds.
    started: `time.time()` at the start of the process.

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
    describe(workdir, config.to_dict(), context.dataset)
    _train_tree(stage, context.dataset.splits['train'], context)
    return write_report(workdir)


@contextlib.contextmanager
def opened(
  config: ConfigDict, workdir: Path, started: float | None = None
) -> Iterator[tuple[build.Stage, Context]]:
  """The main stage of a config and its context, while the folder is locked.

  Raises:
    ConfigError: the config cannot run.
    DataError: the data is not what its format promises.
    WorkdirError: the folder is in use.
  """
  run = build.run(config)
  parallel = Parallel(run.parallel)
  lock = Lock(workdir)
  stop = StopFlag()
  try:
    dataset = load(build.source(config), run.root, cache=workdir / 'stand_in')
    stage = build.stage(config, dataset.spec, parallel.axis_name)
    for each in build.all_stages(stage):
      parallel.check(each.batch_size)
    first_step = FirstStep(started or time.time())
    yield stage, Context(config, run, dataset, parallel, workdir, stop, first_step)
  finally:
    stop.restore()
    lock.release()


def _train_tree(stage: build.Stage, train: Split, context: Context) -> Any:
  """The stage's best variables `[S, ...]`, after those of its experts.

  Args:
    stage: to be trained, if it is not finished yet.
    train: the examples that it may see.
    context: of the run.
  """
  splits, found = train_before(stage, train, context)
  folder = context.folder(stage)
  if not (folder / 'result.json').exists():
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
  own, theirs = _share(train, stage)
  found = {
    name: _train_tree(each, theirs if name in stage.experts else own, context)
    for name, each in sorted(stage.before.items())
  }
  return {**context.dataset.splits, 'train': own}, found


def _share(train: Split, stage: build.Stage) -> tuple[Split, Split]:
  """What the stage itself and what its experts train on; the same without holdout."""
  if not (stage.holdout and stage.experts):
    return train, train
  strata = train.label
  if strata.ndim > 1 or not np.issubdtype(strata.dtype, np.integer):
    strata = np.zeros(len(train), np.int32)
  # Seed 0 whatever the run's: all seeds and both kinds of stage must agree.
  theirs, own = hold_out(strata, stage.holdout, seed=0)
  return train.select(own), train.select(theirs)
