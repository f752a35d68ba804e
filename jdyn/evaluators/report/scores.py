"""The numbers of the report, computed from the files of a run."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jdyn.evaluators.predictions import Predictions, macs_by_path, per_example
from jdyn.evaluators.report.run import Run, Stage
from jdyn.metrics.interval import summarize, wilson
from jdyn.tasks import Multiclass, Multilabel, Regression, Segmentation, Task

COLLAPSE = 0.01
"""The gate has collapsed where a path gets less than this share, or all but this."""


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A score with the 95 % interval that the run can support.

  It is Student's t of the mean over seeds; for one seed it is Wilson's over
  examples if the score is a share of them, else there is none.

  Attributes:
    mean: over the seeds.
    low: lower end; None where there is no interval.
    high: upper end.
  """

  mean: float
  low: float | None = None
  high: float | None = None

  @property
  def errors(self) -> tuple[float, float]:
    """Distances of the mean to both ends; 0 without an interval."""
    if self.low is None:
      return 0.0, 0.0
    # Wilson's ends at 0 % and 100 % may miss the mean by a rounding error.
    return max(self.mean - self.low, 0.0), max(self.high - self.mean, 0.0)

  def times(self, factor: float) -> 'Estimate':
    """The same in another unit."""
    if self.low is None:
      return Estimate(self.mean * factor)
    return Estimate(self.mean * factor, self.low * factor, self.high * factor)


@dataclasses.dataclass(frozen=True)
class Row:
  """One model in the table of results.

  Attributes:
    name: path or stage.
    kind: `stage` (an expert as trained by its own stage), `warm_up` (what the main
      stage started from), `path` (an expert as it is inside the main model), `uniform`
      (their average), `oracle` or `model`.
    scores: by name, one number per seed.
    macs: per example, one number per seed; None where it was not counted alone.
    parameters: number of trainable values; None where they were not counted alone.
  """

  name: str
  kind: str
  scores: Mapping[str, Sequence[float]]
  macs: Sequence[float] | None = None
  parameters: int | None = None


@dataclasses.dataclass(frozen=True)
class Routed:
  """The examples that the gate sent to one path.

  Attributes:
    path: that path.
    count: of its examples, mean over the seeds.
    share: the same of all examples.
    scores: of every path on these examples; None where no seed sent any.
  """

  path: str
  count: float
  share: float
  scores: Mapping[str, Estimate | None]


def estimate(values: Sequence[float], proportion_of: float | None = None) -> Estimate:
  """Mean and interval of a score.

  Args:
    values: one per seed.
    proportion_of: where the score is a share of examples, their number; it gives
      the interval of a single seed.
  """
  summary = summarize(values)
  if summary.count > 1:
    return Estimate(summary.mean, summary.low, summary.high)
  if not proportion_of:
    return Estimate(summary.mean)
  # Scores are float32 shares, so the number of successes needs rounding.
  low, high = wilson(round(summary.mean * proportion_of), proportion_of)
  return Estimate(summary.mean, low, high)


def proportions(task: Task, label: np.ndarray) -> dict[str, int]:
  """The scores that are shares of examples, and of how many."""
  everyone = len(label)
  if isinstance(task, Multiclass):
    return {'accuracy': everyone}
  if isinstance(task, Regression):
    shares = dict.fromkeys(('acc2_has0', 'acc5', 'acc7'), everyone)
    return shares | {'acc2_non0': int(np.count_nonzero(label))}
  return {}


def result_rows(run: Run, split: str) -> list[Row]:
  """The table of results: experts by cost, their average, the bound and the model."""
  main = run.main
  scores = main.scores[split]
  along = macs_by_path(main.predictions[split], main.path_macs)
  experts = [stage for stage in run.stages.values() if stage is not main]
  rows = [_stage_row(stage, _kind(stage, run), split) for stage in experts]
  alone = {row.name: row for row in rows}
  for path, of_path in scores['paths'].items():
    # A frozen expert is the same model inside and outside of the main one.
    if path in alone and _same(alone[path].scores, of_path):
      continue
    macs = along[path].mean(axis=1).tolist() if main.paths else None
    rows.append(Row(path, 'path', of_path, macs))
  if 'uniform' in scores and not _same(scores['model'], scores['uniform']):
    rows.append(_uniform_row(run, split))
  if main.paths and isinstance(run.task, Multiclass):
    rows.append(_oracle_row(main, split, run.task))
  rows.append(_stage_row(main, 'model', split))
  return rows


def _kind(stage: Stage, run: Run) -> str:
  """Whether a stage trained an expert, or what the main one started from."""
  first = run.config.get('warm_up', {})
  return 'warm_up' if stage.name.split('.')[0] in first else 'stage'


def _stage_row(stage: Stage, kind: str, split: str) -> Row:
  scores = stage.scores[split]
  return Row(stage.name, kind, scores['model'], scores['macs'], stage.parameters)


def _uniform_row(run: Run, split: str) -> Row:
  """The plain average of the experts' logits; it computes all of them."""
  scores = run.main.scores[split]
  row = Row('average', 'uniform', scores['uniform'])
  if not set(scores['paths']) <= set(run.stages):
    return row
  experts = [run.stages[path] for path in scores['paths']]
  macs = np.sum([stage.scores[split]['macs'] for stage in experts], axis=0)
  parameters = sum(stage.parameters for stage in experts)
  return dataclasses.replace(row, macs=macs.tolist(), parameters=parameters)


def _same(one: Mapping[str, Sequence[float]], other: Mapping[str, Sequence[float]]):
  """Whether two sets of scores are equal but for rounding."""
  return all(np.allclose(one[name], other[name], rtol=1e-3, atol=1e-4) for name in one)


def _oracle_row(main: Stage, split: str, task: Task) -> Row:
  """A gate that knows the labels: the cheapest path that is right, if any is."""
  predictions = main.predictions[split]
  right = np.stack([example_scores(task, predictions, path) for path in main.paths])
  along = macs_by_path(predictions, main.path_macs)
  macs = np.stack([along[path] for path in main.paths])
  # argmax is the first path that is right; the cheapest where none is.
  cost = np.take_along_axis(macs, right.argmax(axis=0)[None], axis=0)[0].mean(axis=1)
  accuracy = right.max(axis=0).mean(axis=1)
  return Row('gate oracle', 'oracle', {'accuracy': accuracy.tolist()}, cost.tolist())


def routed_rows(stage: Stage, split: str, task: Task) -> list[Routed]:
  """How right each path is on the examples that the gate sends to each path.

  The score is that of `example_scores`.
  """
  predictions = stage.predictions[split]
  values = {path: example_scores(task, predictions, path) for path in stage.paths}
  weights = np.stack([predictions.weights[path] for path in stage.paths])
  chosen = weights.argmax(axis=0)  # [S, N]
  single_share = isinstance(task, Multiclass) and len(stage.seeds) == 1
  rows = []
  for k, path in enumerate(stage.paths):
    sent = chosen == k
    count = float(sent.sum(axis=1).mean())
    used = sent.any(axis=1)
    scores: dict[str, Estimate | None] = dict.fromkeys(stage.paths)
    if used.any():
      for name, value in values.items():
        means = [v[s].mean() for v, s in zip(value[used], sent[used], strict=True)]
        scores[name] = estimate(means, count if single_share else None)
    rows.append(Routed(path, count, count / sent.shape[1], scores))
  return rows


def example_scores(task: Task, predictions: Predictions, path: str = '') -> np.ndarray:
  """How good the model is on every example, `[S, N]`; or one of its paths.

  Whether it is right (multiclass), the F1 of an example's labels (multilabel), the
  share of its pixels that are right (segmentation) or the absolute error in units of
  the label (regression).
  """
  kept = predictions.expert_logits[path] if path else predictions.logits
  if isinstance(task, Regression):
    return per_example(task.loss, kept, predictions.label)
  found = [task.kept_correct(one_seed, predictions.label) for one_seed in kept]
  return np.stack(found).astype(np.float64)


def example_score_name(task: Task) -> tuple[str, str]:
  """The name of what `example_scores` gives, and in words."""
  if isinstance(task, Regression):
    return 'mae', 'Mean absolute error'
  if isinstance(task, Multilabel):
    return 'example_f1', 'F1 of the labels of an example'
  if isinstance(task, Segmentation):
    return 'pixel_accuracy', 'Share of the pixels of an image that are right'
  return 'accuracy', 'Accuracy'


def class_usage(stage: Stage, split: str, task: Task) -> np.ndarray:
  """Mean gate weight `[K, C]` by path and class, mean over seeds; NaN without examples.

  Paths are in the order of `stage.paths`. An example with several labels counts in
  each of them, an image in each class by its pixels.
  """
  predictions = stage.predictions[split]
  label = predictions.label
  if isinstance(task, Segmentation):
    member = predictions.logits[0].sum(axis=-1).astype(np.float64)
  elif label.ndim == 1:
    member = np.eye(task.num_outputs)[label]
  else:
    member = np.asarray(label, np.float64)
  count = member.sum(axis=0)
  weights = np.stack([predictions.weights[path].mean(axis=0) for path in stage.paths])
  return weights @ member / np.where(count, count, np.nan)


def confusion(predictions: Predictions, task: Task) -> np.ndarray:
  """Share `[C, C]` of each true class (row) that is taken for each class (column).

  The mean over the seeds; NaN in the row of a class without examples.
  """
  if isinstance(task, Segmentation):
    counts = predictions.logits.sum(axis=1, dtype=np.float64)
  else:
    eye = np.eye(task.num_outputs)
    truth = eye[predictions.label]
    counts = np.stack(
      [truth.T @ eye[np.asarray(task.predict(one))] for one in predictions.logits]
    )
  rows = counts[0].sum(axis=1, keepdims=True)
  return np.mean(counts, axis=0) / np.where(rows, rows, np.nan)


def class_iou(predictions: Predictions) -> np.ndarray:
  """Intersection over union of each class of a segmentation, `[S, C]`."""
  counts = predictions.logits.sum(axis=1, dtype=np.float64)
  found = np.diagonal(counts, axis1=1, axis2=2)
  return found / np.maximum(counts.sum(1) + counts.sum(2) - found, 1)


def label_f1(predictions: Predictions, task: Task) -> np.ndarray:
  """F1 of each label, `[S, C]`; 0 for a label that is neither present nor predicted."""
  truth = predictions.label > 0.5
  found = np.stack([np.asarray(task.predict(one)) for one in predictions.logits]) > 0
  size = truth.sum(axis=0) + found.sum(axis=1)
  return 2 * (truth & found).sum(axis=1) / np.maximum(size, 1)


def collapsed(stage: Stage, split: str = 'valid') -> dict[str, dict[int, float]]:
  """Shares by path and seed, of the paths that get nearly no or all examples."""
  found = {}
  for path in stage.paths:
    usage = stage.scores[split]['usage'][path]
    bad = {
      seed: share
      for seed, share in zip(stage.seeds, usage, strict=True)
      if not COLLAPSE <= share <= 1 - COLLAPSE
    }
    if bad:
      found[path] = bad
  return found


def static_rows(run: Run, split: str) -> list[Row]:
  """Of the table of results: each path as a model of its own, cheapest first."""
  rows = [row for row in result_rows(run, split) if row.kind in ('stage', 'path')]
  # A stage comes before the path that was tuned from it, and is what one would deploy.
  found = {row.name: row for row in reversed(rows) if row.macs is not None}
  return sorted(found.values(), key=lambda row: np.mean(row.macs))


def random_routing(
  costs: Sequence[float], scores: Sequence[float], maximize: bool
) -> list[int]:
  """The static models between which a gate without eyes would toss.

  Sending each example to one of two models with a fixed probability reaches every
  point on the line between (cost, score) of the two. The best of it is the hull of
  these points, from the cheapest model to the best one; beyond, nothing is gained.
  This is exact for means over examples (accuracy, absolute error), and close for F1.

  Args:
    costs: of the models.
    scores: of the models.
    maximize: whether a greater score is better.

  Returns:
    The indices of the models on the hull, by cost.
  """
  x = np.asarray(costs, np.float64)
  y = np.asarray(scores, np.float64) * (1 if maximize else -1)
  hull: list[int] = []
  for k in np.lexsort((-y, x)):
    if hull and y[k] <= y[hull[-1]]:
      continue
    while len(hull) > 1 and _below(x, y, hull[-2], hull[-1], k):
      hull.pop()
    hull.append(int(k))
  return hull


def _below(x: np.ndarray, y: np.ndarray, a: int, b: int, c: int) -> bool:
  """Whether point b is on or below the line from a to c."""
  return (y[b] - y[a]) * (x[c] - x[a]) <= (y[c] - y[a]) * (x[b] - x[a])


def gain_over_random(
  static: Sequence[Row], gated: Row, score: str, maximize: bool
) -> tuple[Estimate, Estimate]:
  """What random routing reaches at the gated model's cost, and how much better it is.

  Differences are taken seed by seed, so what a seed's experts share cancels.

  Args:
    static: the models between which to toss.
    gated: the model.
    score: its name.
    maximize: whether greater is better.

  Returns:
    The score of random routing, and the gated score minus it.
  """
  scores = np.array([row.scores[score] for row in static])  # [K, S]
  costs = np.array([np.mean(row.macs) for row in static])
  hull = random_routing(costs, scores.mean(axis=1), maximize)
  random = [
    float(np.interp(cost, costs[hull], scores[hull, seed]))
    for seed, cost in enumerate(gated.macs)
  ]
  gain = [own - other for own, other in zip(gated.scores[score], random, strict=True)]
  return estimate(random), estimate(gain)
