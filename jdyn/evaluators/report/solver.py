"""What the solvers of equilibrium models did: numbers and plots of the report."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullFormatter

from jdyn.evaluators.predictions import Predictions
from jdyn.evaluators.report.plots import Painter, colors
from jdyn.evaluators.report.scores import Estimate, example_scores
from jdyn.metrics.interval import summarize, wilson
from jdyn.tasks import Regression, Task

BINS = 6
"""Bins of steps at most; quantiles, so that all hold about as many examples."""

_GREY = '#808080'
_EXACT = 1e-9  # Where a logarithmic axis ends.


@dataclasses.dataclass(frozen=True)
class Block:
  """One fixed point that the model solves for.

  Attributes:
    name: a modality, or `fused`.
    steps: `[S, N]` evaluations of its map.
    residual: `[S, N]` of the best of them.
    converged: `[S, N]`.
    trace: `[S, N, max_steps]`, the residual at each; then the last one again.
  """

  name: str
  steps: np.ndarray
  residual: np.ndarray
  converged: np.ndarray
  trace: np.ndarray


@dataclasses.dataclass(frozen=True)
class Bin:
  """Examples whose solvers took about as many steps.

  Attributes:
    low: fewest steps.
    high: most steps.
    count: of different examples, whatever the number of seeds.
    score: of `example_scores`; its interval is over these examples.
  """

  low: int
  high: int
  count: int
  score: Estimate


def blocks_by_path(predictions: Predictions) -> dict[str, list[Block]]:
  """The blocks of each path of a gated model; of another model, all of them by ''."""
  found: dict[str, list[Block]] = {}
  for name, arrays in predictions.blocks.items():
    path, _, block = name.rpartition('/')
    found.setdefault(path, []).append(Block(block, **arrays))
  return found


def tolerance(config: Mapping[str, Any]) -> float | None:
  """The residual that counts as converged, if all fusions of a config have the same."""
  found = set(_tolerances(config))
  return found.pop() if len(found) == 1 else None


def _tolerances(entry: Any) -> Iterator[float]:
  if isinstance(entry, Mapping):
    if {'tol', 'max_steps'} <= set(entry):
      yield entry['tol']
    for value in entry.values():
      yield from _tolerances(value)


def by_steps(
  predictions: Predictions, task: Task, path: str, blocks: Sequence[Block]
) -> list[Bin]:
  """How good the model, or one of its paths, is by the steps of all its blocks.

  An example counts once per bin, with its mean over the seeds, since seeds that see
  the same example are not independent.
  """
  # A nested mixture says what its paths do, but not what they predict.
  values = example_scores(task, predictions, path.split('/')[0])
  steps = sum(block.steps for block in blocks).astype(int)
  ends = np.quantile(steps, np.linspace(0, 1, BINS + 1)[1:], method='higher')
  ends = np.unique(ends)
  which = np.searchsorted(ends, steps)
  found = []
  for k, end in enumerate(ends):
    inside = which == k
    count = inside.sum(axis=0)
    means = (values * inside).sum(axis=0)[count > 0] / count[count > 0]
    score = _estimate(means, not isinstance(task, Regression))
    found.append(Bin(int(steps[inside].min()), int(end), len(means), score))
  return found


def _estimate(values: np.ndarray, bounded: bool) -> Estimate:
  """Mean and 95 % interval over examples."""
  if bounded:  # By 0 and 1. Wilson's is too wide rather than too narrow then.
    total, count = min(float(values.sum()), len(values)), len(values)
    return Estimate(total / count, *wilson(total, count))
  found = summarize(values)
  if found.count == 1:
    return Estimate(found.mean)
  return Estimate(found.mean, found.low, found.high)


def residual_by_step(blocks: Sequence[Block], tol: float | None) -> Painter:
  """Residual after each step: median and band of all examples and seeds."""

  def paint(axes: Axes) -> None:
    last = int(max(block.steps.max() for block in blocks))
    for color, block in zip(colors(len(blocks)), blocks, strict=True):
      trace = block.trace.reshape(-1, block.trace.shape[-1])[:, :last]
      # Of an example that diverged, the worst that has a place on the axis.
      finite = np.isfinite(trace)
      trace = np.where(finite, trace, np.max(trace, initial=1.0, where=finite))
      trace = trace.clip(_EXACT)
      low, median, high = np.quantile(trace, (0.05, 0.5, 0.95), axis=0)
      steps = np.arange(1, trace.shape[1] + 1)
      axes.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
      axes.plot(steps, median, color=color, label=block.name)
    if tol is not None:
      axes.axhline(tol, color=_GREY, linestyle='--', label=f'tolerance {tol:g}')
    axes.set(xlabel='step', ylabel='residual', yscale='log')
    axes.yaxis.set_major_formatter('{x:g}')  # Else powers of ten, in math.
    axes.yaxis.set_minor_formatter(NullFormatter())
    _whole_steps(axes)
    axes.figure.legend(loc='outside lower center', ncols=3)

  return paint


def steps_per_example(blocks: Sequence[Block]) -> Painter:
  """Share of the examples by the steps that they took."""

  def paint(axes: Axes) -> None:
    for color, block in zip(colors(len(blocks)), blocks, strict=True):
      steps = block.steps.ravel().astype(int)
      share = 100 * np.bincount(steps) / len(steps)
      first, last = steps.min(), steps.max()
      edges = np.arange(first, last + 2) - 0.5
      axes.stairs(share[first:], edges, color=color, fill=True, alpha=0.2)
      axes.stairs(share[first:], edges, color=color, label=block.name, linewidth=1.4)
    axes.set(xlabel='steps', ylabel='test examples (%)')
    _whole_steps(axes)
    axes.figure.legend(loc='outside lower center', ncols=3)

  return paint


def score_by_steps(bins: Sequence[Bin], label: str, factor: float) -> Painter:
  """Scores in a unit that is 1 / `factor` of theirs, by bin, with their intervals."""

  def paint(axes: Axes) -> None:
    scores = [at.score.times(factor) for at in bins]
    places = np.arange(len(bins))
    axes.errorbar(
      places,
      [score.mean for score in scores],
      yerr=np.transpose([score.errors for score in scores]),
      fmt='o',
      color=colors(1)[0],
      capsize=3,
    )
    spans = [f'{at.low}' if at.low == at.high else f'{at.low}-{at.high}' for at in bins]
    names = [f'{span}\n{at.count}' for span, at in zip(spans, bins, strict=True)]
    axes.set_xticks(places, names)
    axes.margins(x=0.1)
    axes.set(xlabel='steps of all blocks, and number of examples', ylabel=label)

  return paint


def _whole_steps(axes: Axes) -> None:
  axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
