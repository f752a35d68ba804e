"""The plots of the report, as SVG that fits into a light or a dark page."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from jdyn.evaluators.report.scores import Estimate

# Okabe and Ito's colours, which people with colour blindness can tell apart.
_PATHS = ('#56B4E9', '#E69F00', '#009E73', '#CC79A7', '#F0E442', '#999999')
_LINE, _MODEL = '#0072B2', '#D55E00'
_COLUMNS = 40  # Of a histogram.
# Stands for the page's text colour, which Matplotlib cannot name.
_INK = '#010203'

_STYLE = {
  'axes.edgecolor': _INK,
  'axes.grid': True,
  'axes.labelcolor': _INK,
  'axes.spines.right': False,
  'axes.spines.top': False,
  'figure.titlesize': 'medium',
  'font.size': 9,
  'grid.alpha': 0.3,
  'grid.color': '#808080',
  'grid.linewidth': 0.6,
  'legend.framealpha': 0.0,
  'svg.fonttype': 'none',
  'text.color': _INK,
  'text.parse_math': False,  # A dollar in a class name is a dollar.
  'xtick.color': _INK,
  'ytick.color': _INK,
}

Painter = Callable[[Axes], None]
"""Draws into one pair of axes."""


def render(
  name: str, title: str, paint: Painter, size: tuple[float, float] = (4.6, 3.1)
) -> str:
  """One plot as an `<svg>` element.

  Args:
    name: unique on the page; it keeps the ids of plots apart.
    title: above the axes, and read out by screen readers.
    paint: draws the content.
    size: width and height in inches.
  """
  file = io.StringIO()
  with matplotlib.rc_context({**_STYLE, 'svg.hashsalt': name}):
    figure = Figure(figsize=size, layout='constrained')
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    paint(axes)
    # Over the figure and not over the axes, which may be narrow.
    figure.suptitle(title, wrap=True)
    figure.savefig(file, format='svg', transparent=True)
  svg = file.getvalue()
  svg = svg[svg.index('<svg') :]
  # It holds the time of day.
  svg = re.sub(r'<metadata>.*?</metadata>', '', svg, flags=re.DOTALL)
  svg = re.sub(r'(\bid="|href="#|url\(#)', rf'\g<1>{name}-', svg)
  svg = svg.replace(_INK, 'currentColor')
  return svg.replace('<svg', f'<svg role="img" aria-label="{escape(title)}"', 1)


def curve(values: np.ndarray, label: str, best: Sequence[int] | None = None) -> Painter:
  """A metric `[S, epochs]`: mean and range over seeds, and the best epoch of each."""

  def paint(axes: Axes) -> None:
    epochs = np.arange(1, values.shape[1] + 1)
    several = len(values) > 1
    if several:
      low, high = values.min(axis=0), values.max(axis=0)
      axes.fill_between(epochs, low, high, color=_LINE, alpha=0.25, linewidth=0)
    mean = values.mean(axis=0)
    style = 'o-' if len(epochs) == 1 else '-'
    name = 'mean, range over seeds' if several else 'one seed'
    axes.plot(epochs, mean, style, color=_LINE, label=name, markersize=4)
    if best is not None:
      at = [values[seed, epoch - 1] for seed, epoch in enumerate(best)]
      name = 'best epoch of each seed' if several else 'best epoch'
      axes.plot(best, at, '*', color=_MODEL, markersize=9, label=name, clip_on=False)
    axes.set(xlabel='epoch', ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.legend()

  return paint


def usage_by_epoch(shares: Mapping[str, np.ndarray]) -> Painter:
  """Share `[epochs]` of the examples by path, stacked."""

  def paint(axes: Axes) -> None:
    epochs = np.arange(1, len(next(iter(shares.values()))) + 1)
    if len(epochs) == 1:
      _stack(axes, ['1'], shares)
    else:
      parts = [100 * share for share in shares.values()]
      axes.stackplot(epochs, parts, labels=list(shares), colors=colors(len(shares)))
      axes.set_xlim(epochs[0], epochs[-1])
      axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set(xlabel='epoch', ylabel='validation examples (%)', ylim=(0, 100))
    legend_below(axes)

  return paint


def columns_size(num_columns: int) -> tuple[float, float]:
  """Inches for vertical bars with upright names."""
  return min(max(4.6, 0.7 + 0.17 * num_columns), 9.0), 3.4


def usage_by_class(names: Sequence[str], shares: Mapping[str, np.ndarray]) -> Painter:
  """Share `[C]` of the examples of each class by path, stacked."""

  def paint(axes: Axes) -> None:
    _stack(axes, names, shares)
    axes.set(ylabel='test examples (%)', ylim=(0, 100), xlabel='true class')
    legend_below(axes)

  return paint


def _stack(axes: Axes, names: Sequence[str], shares: Mapping[str, np.ndarray]) -> None:
  places, bottom = np.arange(len(names)), np.zeros(len(names))
  for color, (path, share) in zip(colors(len(shares)), shares.items(), strict=True):
    height = 100 * np.nan_to_num(share)
    axes.bar(places, height, 0.85, bottom=bottom, color=color, label=path)
    bottom += height
  axes.grid(visible=False, axis='x')
  _name_ticks(axes, names)


def matrix_size(num_classes: int) -> tuple[float, float]:
  """Inches for a plot of C x C cells."""
  side = min(max(3.4, 1.8 + 0.26 * num_classes), 8.0)
  return side + 1.0, side


def confusion(names: Sequence[str], shares: np.ndarray) -> Painter:
  """Shares `[C, C]` of each true class that are taken for each class."""

  def paint(axes: Axes) -> None:
    cells = 100 * shares
    image = axes.imshow(
      cells, cmap='cividis', vmin=0, vmax=100, interpolation='none', aspect='equal'
    )
    axes.figure.colorbar(image, ax=axes, label='of the true class (%)', shrink=0.8)
    if len(names) <= 12:
      for (row, column), cell in np.ndenumerate(np.nan_to_num(cells)):
        ink = 'black' if cell > 55 else 'white'
        axes.text(
          column, row, f'{cell:.0f}', ha='center', va='center', color=ink, fontsize=7
        )
    axes.grid(visible=False)
    axes.set(xlabel='predicted class', ylabel='true class')
    _name_ticks(axes, names)
    axes.set_yticks(np.arange(len(names)), names)

  return paint


def bars_size(num_bars: int) -> tuple[float, float]:
  """Inches for horizontal bars."""
  return 4.6, min(max(2.2, 0.9 + 0.2 * num_bars), 14.0)


def label_bars(names: Sequence[str], scores: np.ndarray, what: str) -> Painter:
  """Scores `[S, C]` by label in percent, with their range over seeds."""

  def paint(axes: Axes) -> None:
    mean = 100 * scores.mean(axis=0)
    ends = np.stack(
      [mean - 100 * scores.min(axis=0), 100 * scores.max(axis=0) - mean]
    ).clip(min=0)
    axes.barh(
      np.arange(len(names)),
      mean,
      color=_LINE,
      xerr=ends if len(scores) > 1 else None,
      error_kw={'ecolor': _INK, 'elinewidth': 1},
    )
    axes.grid(visible=False, axis='y')
    axes.set(xlabel=f'{what} (%)', xlim=(0, 100))
    axes.margins(y=0.02)
    axes.set_yticks(np.arange(len(names)), names)
    axes.invert_yaxis()

  return paint


def truth_and_prediction(truth: np.ndarray, prediction: np.ndarray) -> Painter:
  """Where pairs `[n]` lie, and the diagonal of perfect predictions."""

  def paint(axes: Axes) -> None:
    bins = axes.hexbin(
      truth, prediction, gridsize=30, mincnt=1, cmap='cividis', linewidths=0.1
    )
    axes.figure.colorbar(bins, ax=axes, label='predictions per cell')
    ends = [truth.min(), truth.max()]
    axes.plot(ends, ends, '--', color=_INK, linewidth=1, label='perfect')
    axes.set(xlabel='truth', ylabel='prediction')
    axes.legend()

  return paint


def score_by_cost(
  label: str,
  static: Mapping[str, tuple[float, Estimate]],
  hull: tuple[Sequence[float], Sequence[float]],
  gated: tuple[Estimate, Estimate],
  dial: Sequence[tuple[float, Estimate]] = (),
) -> Painter:
  """Score against MACs per example.

  Args:
    label: of the score, with its unit.
    static: cost and score of each static model.
    hull: costs and scores between which random routing moves.
    gated: cost and score of the gated model as it was trained.
    dial: cost and score of the gated model at growing budgets.
  """

  def paint(axes: Axes) -> None:
    costs, reached = hull
    # Whoever may spend more than the best model needs has that model.
    end = max(gated[0].mean, *(cost for cost, _ in static.values()))
    axes.plot(
      [*costs, end],
      [*reached, reached[-1]],
      '--',
      color='#808080',
      label='random routing',
    )
    for color, (name, (cost, score)) in zip(
      colors(len(static)), static.items(), strict=True
    ):
      _point(axes, Estimate(cost), score, 'o', color, f'{name} alone')
    if dial:
      x, y = [cost for cost, _ in dial], [score for _, score in dial]
      axes.plot(x, [at.mean for at in y], color=_MODEL, label='gated model at a budget')
      if all(at.low is not None for at in y):
        ends = [at.low for at in y], [at.high for at in y]
        axes.fill_between(x, *ends, color=_MODEL, alpha=0.2, linewidth=0)
    _point(axes, *gated, 'D', _MODEL, 'gated model')
    axes.xaxis.set_major_formatter(EngFormatter(sep=''))
    axes.margins(x=0.12, y=0.2)
    axes.set(xlabel='multiply-accumulates per example', ylabel=label)
    legend_below(axes)

  return paint


def _point(axes: Axes, x: Estimate, y: Estimate, marker: str, color: str, name: str):
  axes.errorbar(
    x.mean,
    y.mean,
    xerr=[[end] for end in x.errors],
    yerr=[[end] for end in y.errors],
    fmt=marker,
    color=color,
    capsize=3,
    label=name,
  )


def histograms(values: Mapping[str, np.ndarray], label: str) -> Painter:
  """Share of the examples by a quantity, of all seeds; one outline per name."""

  def paint(axes: Axes) -> None:
    low = min(found.min() for found in values.values())
    high = max(found.max() for found in values.values())
    edges = np.histogram_bin_edges([], _COLUMNS, range=(low, high))
    for color, (name, found) in zip(colors(len(values)), values.items(), strict=True):
      share = 100 * np.histogram(found, edges)[0] / found.size
      axes.stairs(share, edges, color=color, fill=True, alpha=0.2)
      axes.stairs(share, edges, color=color, label=name, linewidth=1.4)
    axes.set(xlabel=label, ylabel='test examples (%)')
    legend_below(axes)

  return paint


def colors(count: int) -> list[str]:
  """One colour per path, or whatever a plot tells apart; they repeat after six."""
  return [_PATHS[k % len(_PATHS)] for k in range(count)]


def _name_ticks(axes: Axes, names: Sequence[str]) -> None:
  """Names below the axis, upright where they would not fit."""
  letters = 9 * axes.figure.get_size_inches()[0]
  upright = len(names) * (max(map(len, names)) + 1) > letters
  axes.set_xticks(np.arange(len(names)), names, rotation=90 if upright else 0)


def legend_below(axes: Axes) -> None:
  """The legend under the axes, in two columns."""
  axes.figure.legend(loc='outside lower center', ncols=2)
