"""Sweeps: seeds and whatever varies by step in one program, the rest in turn.

Variants of a config whose main stages differ only in what comes in through `hparams`
(`build.program_key`) form a group, and a group is one compiled program. Groups follow
one after another. Experts that come out the same for several variants are trained
once. Each variant leaves the folder of a run that was trained by itself.
"""

import contextlib
import dataclasses
import json
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from jdyn import build
from jdyn.data.dataset import Dataset
from jdyn.data.load import load
from jdyn.evaluators.run_files import is_finished
from jdyn.evaluators.sweep_table import SweepTable, write_table
from jdyn.training import grid
from jdyn.training.context import Context, FirstStep, StopFlag
from jdyn.training.guard import NonFiniteError
from jdyn.training.loop import check, train_before
from jdyn.training.parallel import Parallel
from jdyn.training.stage import train_variants
from jdyn.training.workdir import Lock, describe, describe_sweep, held, naming_changes

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Planned:
  """A variant that is ready to be trained."""

  variant: grid.Variant
  stage: build.Stage
  context: Context

  def finished(self, stage: str = build.MAIN) -> bool:
    return is_finished(self.context.workdir / 'stages' / stage)


def sweep(
  config: ConfigDict,
  axes: grid.Axes,
  workdir: Path,
  started: float | None = None,
  *,
  together: int = 0,
) -> SweepTable:
  """Trains all variants that are not finished, and writes the table of results.

  A variant whose training is not finite ends its program and no other: the table is
  that of the variants that are finished, and the error comes after it.

  Args:
    config: a locked run config (`configs/base.py`).
    axes: the values that keys of it take; every combination is a variant.
    workdir: of the sweep; the same command continues what it holds.
    started: `time.monotonic()` at the start of the process.
    together: at most so many variants in one program; 0 means no limit.

  Raises:
    ConfigError: a variant cannot run; nothing was trained.
    DataError: the data is not what its format promises.
    WorkdirError: the folder is in use, or holds a run or another sweep.
    NonFiniteError: a loss or gradient of some variants was not finite.
    Preempted: SIGTERM came; the state is saved.
  """
  variants = grid.variants(config, axes)
  with contextlib.ExitStack() as stack:
    lock = stack.enter_context(held(workdir))
    stop = StopFlag()
    stack.callback(stop.restore)
    # What cannot run leaves the folder free for what can.
    first = FirstStep(started or time.monotonic())
    planned = _plan(variants, workdir, stop, first, lock)
    # A list keeps the order of the keys, which is that of the variants.
    swept = [[key, list(values)] for key, values in axes.items()]
    what = {'config': config.to_dict(), 'swept': swept, 'together': together}
    describe_sweep(workdir, what)
    groups = list(_groups(planned, together))
    _LOG.info('%d variants in %d programs.', len(planned), len(groups))
    failures = list(_train_groups(groups, planned))
    settings = {one.variant.name: one.variant.settings for one in planned}
    if not failures:
      return write_table(workdir, settings)
    missing = [one.variant.name for one in planned if not one.finished()]
    for name in missing:
      del settings[name]
    if settings:
      write_table(workdir, settings, missing)
  others = f' {workdir / "results.csv"} is of the others.' if settings else ''
  raise NonFiniteError(
    f'{len(missing)} of {len(planned)} variants are not finished.{others} '
    f'{" ".join(failures)} The same command tries again; for other values give another '
    '--workdir.'
  )


def _plan(
  variants: Sequence[grid.Variant],
  workdir: Path,
  stop: StopFlag,
  first: FirstStep,
  lock: Lock,
) -> list[_Planned]:
  """Loads and builds everything, so that what cannot run fails before training."""
  datasets: dict[str, Dataset] = {}
  ways: dict[str, Parallel] = {}
  planned = []
  for variant in variants:
    config = variant.config
    try:
      run, source = build.run(config), build.source(config)
      data = json.dumps(config.data.to_dict(), sort_keys=True)
      if data not in datasets:
        with naming_changes(workdir / variant.name, run.root):
          datasets[data] = load(source, run.root, cache=workdir / 'stand_in')
      if run.parallel not in ways:
        ways[run.parallel] = Parallel(run.parallel)
      dataset, parallel = datasets[data], ways[run.parallel]
      stage = build.stage(config, dataset.spec, parallel.axis_name)
      folder = workdir / variant.name
      context = Context(config, run, dataset, parallel, folder, stop, first, lock)
      check(stage, context)
    except build.ConfigError as error:
      raise build.ConfigError(f'{variant.name}: {error}') from error
    planned.append(_Planned(variant, stage, context))
  return planned


def _groups(planned: Sequence[_Planned], together: int) -> Iterator[list[_Planned]]:
  """The variants by program, in the order of their first ones."""
  found: dict[str, list[_Planned]] = {}
  for one in planned:
    found.setdefault(build.program_key(one.context.config), []).append(one)
  for group in found.values():
    size = together or len(group)
    yield from (group[k : k + size] for k in range(0, len(group), size))


def _train_groups(
  groups: Sequence[Sequence[_Planned]], everyone: Sequence[_Planned]
) -> Iterator[str]:
  """Trains all programs; says of each that was not finite what happened."""
  for group in groups:
    try:
      _train_group(group, everyone)
    except NonFiniteError as error:
      names = ', '.join(one.variant.name for one in group)
      one_program = ' (one program)' if len(group) > 1 else ''
      failure = f'{names}{one_program}: {error}'
      _LOG.error('%s', failure)
      yield failure


def _train_group(group: Sequence[_Planned], everyone: Sequence[_Planned]) -> None:
  """Trains the variants of one program, unless all are finished."""
  with contextlib.ExitStack() as locks:
    for one in group:
      locks.callback(Lock(one.context.workdir).release)
      describe(one.context.workdir, one.context.config.to_dict(), one.context.dataset)
    if all(one.finished() for one in group):
      return
    first = group[0]
    _copy_before(first, everyone)
    train = first.context.dataset.splits['train']
    splits, before = train_before(first.stage, train, first.context)
    for other in group[1:]:
      _copy_before(other, [first])
    stages, contexts = ([one.stage for one in group], [one.context for one in group])
    program = first.context.workdir.parent / 'programs' / first.variant.name
    train_variants(stages, splits, before, contexts, program / 'checkpoints')


def _copy_before(one: _Planned, others: Sequence[_Planned]) -> None:
  """Copies the stages that a variant lacks and that another one has finished."""
  for path, stage in one.stage.before.items():
    if one.finished(path):
      continue
    key = build.before_key(one.context.config, path)
    for other in others:
      same = path in other.stage.before
      same = same and build.before_key(other.context.config, path) == key
      if same and other.finished(path):
        for each in build.all_stages(stage):  # The stage itself comes last.
          _copy(other.context.folder(each), one.context.folder(each))
        break


def _copy(source: Path, target: Path) -> None:
  """Copies a folder; it is there as a whole or not at all."""
  draft = target.with_name(f'.{target.name}.partial')
  shutil.rmtree(draft, ignore_errors=True)
  shutil.rmtree(target, ignore_errors=True)  # Of a stage that was not finished.
  shutil.copytree(source, draft)
  draft.rename(target)
