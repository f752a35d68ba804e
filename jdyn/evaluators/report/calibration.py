"""Calibration and selective prediction: a section of the report."""

from collections.abc import Sequence
from html import escape

import numpy as np
from matplotlib.axes import Axes

from jdyn.evaluators.calibration import (
  Calibrated,
  calibrate,
  confidence,
  has_probabilities,
  scale,
)
from jdyn.evaluators.report import markup, plots
from jdyn.evaluators.report.run import Run
from jdyn.evaluators.report.scores import estimate
from jdyn.metrics.calibration import BINS, Reliability, reliability
from jdyn.metrics.selective import risk_coverage

_POINTS = 200  # Of a curve; more would only make the file larger.

SHOWN = ('ece', 'brier')
"""Scores of `score_all` that this section has for all that is worth comparing."""

_LABELS = {
  'nll': 'NLL',
  'ece': 'ECE',
  'brier': 'Brier',
  'temperature': 'temperature',
  'aurc': 'AURC',
  'e_aurc': 'E-AURC',
  'aupr_success': 'AUPR (success)',
  'fpr_at_95_tpr': 'FPR at 95 % TPR',
}


def section(run: Run, figure: markup.Figure) -> str:
  """How honest the probabilities of the main model are; empty for other tasks."""
  if not has_probabilities(run.task):
    return ''
  valid, test = run.main.predictions['valid'], run.main.predictions['test']
  model = calibrate(valid, test)
  rows = [*_rows(run.model, model, strong=True)]
  for expert in sorted(test.expert_logits):
    rows += _rows(expert, calibrate(valid, test, expert))
  scaled = scale(test.logits, model.temperature)
  before, after = (
    reliability(*(part.ravel() for part in confidence(logits, test.label)))
    for logits in (test.logits, scaled)
  )
  curves = [
    risk_coverage(*confidence(one_seed, test.label))[1] for one_seed in test.logits
  ]
  whom = 'test examples' + (' of all seeds' if len(run.main.seeds) > 1 else '')
  return markup.section(
    'How honest are the probabilities?',
    markup.grid(
      [
        figure(
          'Reliability',
          _diagram(before, after),
          f'Accuracy of the {whom} by confidence, the probability of the likeliest '
          f'class, in {BINS} equal bins; the area of a point is the share of the '
          'examples. Below the diagonal the model is too sure.',
          (4.6, 3.8),
        ),
        figure(
          'Risk against coverage',
          _abstention(np.stack(curves)),
          'Errors that are left when only the surest examples are answered.'
          + (' Mean and range over seeds.' if len(curves) > 1 else ''),
          (4.6, 3.8),
        ),
      ]
    ),
    markup.table(['model', *_LABELS.values()], rows),
    '<p class="note">NLL: negative log-likelihood in nats. ECE: expected calibration '
    'error. Brier: sum over classes. In the second row of a model, its logits are '
    'divided by a temperature that is fitted to the validation split. AURC: area under '
    'risk against coverage; E-AURC: the same less that of a perfect order. AUPR: '
    'average precision of finding right answers by confidence. FPR: wrong answers that '
    'are accepted when 95 % of the right ones are.</p>',
  )


def _rows(
  name: str, found: Calibrated, strong: bool = False
) -> list[tuple[list[str], bool]]:
  """The model as it is, and after scaling."""
  nothing = dict.fromkeys(_LABELS, '-')
  before = nothing | _cells(found.before) | _cells(found.selective)
  after = nothing | _cells({**found.after, 'temperature': found.temperature})
  return [
    ([_name(name, 'as trained'), *before.values()], strong),
    ([_name(name, 'at its temperature'), *after.values()], False),
  ]


def _name(name: str, state: str) -> str:
  return f'{escape(name)}<small>{state}</small>'


def _cells(scores: dict[str, Sequence[float]]) -> dict[str, str]:
  """Means and intervals over seeds; a dash where a seed has no value."""
  return {
    name: markup.cell(estimate(values), name) if np.isfinite(values).all() else '-'
    for name, values in scores.items()
  }


def _diagram(before: Reliability, after: Reliability) -> plots.Painter:
  """Accuracy by confidence, before and after scaling."""

  def paint(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], '--', color='#808080', label='honest')
    names = ('as trained', 'at its temperature')
    for color, name, found in zip(plots.colors(2), names, (before, after), strict=True):
      kept = found.count > 0
      x, y = found.confidence[kept], found.accuracy[kept]
      area = 300 * found.count[kept] / found.count.sum()
      axes.plot(x, y, color=color, label=name)
      axes.scatter(x, y, area, color=color, clip_on=False)
    axes.set(xlabel='confidence', ylabel='accuracy', xlim=(0, 1), ylim=(0, 1))
    plots.legend_below(axes)

  return paint


def _abstention(risks: np.ndarray) -> plots.Painter:
  """Risk `[S, N]` by coverage, beside a random and the best possible order."""

  def paint(axes: Axes) -> None:
    size = risks.shape[1]
    at = np.unique(np.linspace(0, size - 1, _POINTS).astype(int))
    coverage = 100 * (at + 1) / size
    shown, error = 100 * risks[:, at], 100 * risks[:, -1].mean()
    (color,) = plots.colors(1)
    if len(risks) > 1:
      ends = shown.min(axis=0), shown.max(axis=0)
      axes.fill_between(coverage, *ends, color=color, alpha=0.25, linewidth=0)
    axes.plot(coverage, shown.mean(axis=0), color=color, label='by confidence')
    axes.axhline(error, linestyle='--', color='#808080', label='random order')
    best = 100 * np.clip(1 - (100 - error) / coverage, 0, None)
    axes.plot(coverage, best, ':', color='#808080', label='right answers first')
    axes.set(xlabel='coverage (%)', ylabel='errors (%)', xlim=(0, 100))
    axes.set_ylim(bottom=0)
    plots.legend_below(axes)

  return paint
