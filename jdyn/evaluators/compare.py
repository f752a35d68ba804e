"""Two finished runs on the same examples: which is better, and is it chance?"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jdyn.data.dataset import DataError
from jdyn.evaluators.predictions import Predictions, per_example
from jdyn.evaluators.report.run import MAIN, SPLITS, Run, Stage, read_run
from jdyn.evaluators.report.scores import (
  Estimate,
  estimate,
  example_score_name,
  example_scores,
)
from jdyn.metrics.paired import Difference, McNemar, mcnemar, paired_bootstrap
from jdyn.tasks import Multiclass, Regression


@dataclasses.dataclass(frozen=True)
class Score:
  """One score of both runs, of the seeds that they share.

  Attributes:
    first: mean over the seeds.
    second: likewise.
    difference: second minus first, seed by seed, with Student's t over the seeds.
  """

  first: float
  second: float
  difference: Estimate


@dataclasses.dataclass(frozen=True)
class Comparison:
  """The second run against the first, on the same examples and seeds.

  Attributes:
    folders: of both runs.
    stage: that was compared.
    split: likewise.
    origin: of the data: `real`, `bundled` or `synthetic stand-in`.
    count: of examples.
    seeds: that both runs have.
    scores: by name.
    examples: by what is measured of each example, the bootstrapped mean of second
      minus first over seeds and examples.
    by_seed: McNemar's test of each seed; empty unless each example has one class.
  """

  folders: tuple[Path, Path]
  stage: str
  split: str
  origin: str
  count: int
  seeds: tuple[int, ...]
  scores: Mapping[str, Score]
  examples: Mapping[str, Difference]
  by_seed: Sequence[McNemar]

  def as_json(self) -> dict[str, Any]:
    """Everything, as plain values."""
    found = dataclasses.asdict(self)
    found['folders'] = [str(folder) for folder in self.folders]
    return found

  def tables(self) -> list[list[list[str]]]:
    """For readers, each with its header first: scores, examples, and seeds."""
    scores = [['score', 'first', 'second', 'second - first', '95 % over seeds']]
    scores += [_score_cells(name, found) for name, found in self.scores.items()]
    examples = [['per example', 'second - first', '95 % over both', 'p']]
    examples += [
      [name, f'{of.mean:+.4f}', f'[{of.low:+.4f}, {of.high:+.4f}]', f'{of.p:.3g}']
      for name, of in self.examples.items()
    ]
    seeds = [['seed', 'only first right', 'only second right', 'McNemar p']]
    seeds += [
      [f'{seed}', f'{of.only_first}', f'{of.only_second}', f'{of.p:.3g}']
      for seed, of in zip(self.seeds, self.by_seed, strict=False)
    ]
    return [table for table in (scores, examples, seeds) if len(table) > 1]


def compare(
  first: Path, second: Path, split: str = 'test', stage: str = MAIN
) -> Comparison:
  """Reads two runs and compares one stage of theirs on one split.

  Args:
    first: folder of the run to compare with.
    second: folder of the other one; differences are second minus first.
    split: test or valid.
    stage: main, or the name of an expert.

  Raises:
    DataError: a run is not whole, lacks the stage, or the runs have other examples,
      another task, or no seed in common.
    ValueError: unknown split.
  """
  if split not in SPLITS:
    raise ValueError(f'Unknown split {split!r}; expected one of {sorted(SPLITS)}.')
  runs = read_run(first), read_run(second)
  stages = [_stage(run, stage) for run in runs]
  predictions = [of.predictions[split] for of in stages]
  task = runs[0].task
  if task != runs[1].task:
    raise DataError(f'{second} has task {runs[1].task}, but {first} has {task}.')
  _check_examples(predictions, first, second)
  seeds = tuple(seed for seed in stages[0].seeds if seed in stages[1].seeds)
  if not seeds:
    raise DataError(
      f'{second} has seeds {list(stages[1].seeds)}, and {first} has '
      f'{list(stages[0].seeds)}; train one of them with seeds of the other.'
    )
  rows = [[of.seeds.index(seed) for seed in seeds] for of in stages]
  picked = [
    dataclasses.replace(of, logits=of.logits[at])
    for of, at in zip(predictions, rows, strict=True)
  ]
  measured = [example_scores(task, of) for of in picked]
  examples = {example_score_name(task)[0]: paired_bootstrap(measured[1] - measured[0])}
  # The loss of a regression is what was just measured.
  if task.keeps_logits and not isinstance(task, Regression):
    losses = [per_example(task.loss, of.logits, of.label) for of in picked]
    examples['loss'] = paired_bootstrap(losses[1] - losses[0])
  both = zip(*measured, strict=True)
  return Comparison(
    folders=(first, second),
    stage=stage,
    split=split,
    origin=runs[0].origin,
    count=len(predictions[0].ids),
    seeds=seeds,
    scores=_scores([of.scores[split]['model'] for of in stages], rows, task.main_score),
    examples=examples,
    by_seed=[mcnemar(*pair) for pair in both] if isinstance(task, Multiclass) else [],
  )


def _stage(run: Run, name: str) -> Stage:
  if name not in run.stages:
    raise DataError(
      f'{run.workdir} has no stage {name!r}; expected one of {sorted(run.stages)}.'
    )
  return run.stages[name]


def _check_examples(
  predictions: Sequence[Predictions], first: Path, second: Path
) -> None:
  """Raises DataError unless both runs predict the same examples."""
  ids = [of.ids for of in predictions]
  if not np.array_equal(*ids):
    same = len(ids[0]) == len(ids[1])
    at = int(np.argmax(ids[0] != ids[1])) if same else min(map(len, ids))
    what = (
      f'example {at} is {ids[1][at]!s} and not {ids[0][at]!s}'
      if same
      else f'there are {len(ids[1])} examples and not {len(ids[0])}'
    )
    raise DataError(
      f'{second} was not evaluated on the examples of {first}: {what}. Train and '
      'evaluate both on the same data and split.'
    )
  if not np.array_equal(*(of.label for of in predictions)):
    raise DataError(
      f'{second} has other labels than {first} for the same examples; train both on '
      'the same data.'
    )


def _scores(
  by_run: Sequence[Mapping[str, Sequence[float]]],
  rows: Sequence[Sequence[int]],
  main_score: str,
) -> dict[str, Score]:
  """Every score that both runs have, the one that counts first."""
  found = {}
  shared = sorted(set(by_run[0]) & set(by_run[1]))
  for name in sorted(shared, key=lambda name: name != main_score):
    first, second = (
      np.array(of[name])[at] for of, at in zip(by_run, rows, strict=True)
    )
    difference = estimate(second - first)
    found[name] = Score(float(first.mean()), float(second.mean()), difference)
  return found


def _score_cells(name: str, found: Score) -> list[str]:
  ends = found.difference
  interval = '-' if ends.low is None else f'[{ends.low:+.4f}, {ends.high:+.4f}]'
  numbers = f'{found.first:.4f}', f'{found.second:.4f}', f'{ends.mean:+.4f}'
  return [name, *numbers, interval]
