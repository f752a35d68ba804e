"""Weights of a fusion and what their experts lose: a section of the report."""

from collections.abc import Mapping
from html import escape

import numpy as np

from jdyn.evaluators import confidence
from jdyn.evaluators.predictions import Predictions
from jdyn.evaluators.report import markup, plots
from jdyn.evaluators.report.run import Run
from jdyn.evaluators.report.scores import estimate
from jdyn.metrics.correlation import COEFFICIENTS, Correlation
from jdyn.tasks import Task

_RESAMPLES = 200  # Bootstrap samples per coefficient; Kendall's tau takes its time.


def section(run: Run, figure: markup.Figure) -> str:
  """Whether the main model trusts whom it should; empty where weights do not vary."""
  test, task = run.main.predictions['test'], run.task
  names = confidence.weighted_experts(test)
  if not names:
    return ''
  weights = {name: test.weights[name] for name in names}
  losses = confidence.expert_losses(test, task)
  return markup.section(
    'Do the weights know who errs?',
    markup.grid(
      [
        figure(
          'Weights on the test split',
          plots.histograms(weights, 'weight'),
          'Of the test examples' + (', all seeds.' if len(run.main.seeds) > 1 else '.'),
          (4.6, 3.5),
        )
      ]
    ),
    _table(weights, losses),
    '<p class="note">A weight is of use where it falls as the loss of its expert '
    'rises: a negative covariance. With the products of mean weight and mean loss '
    '(Term-L), the covariances (Term-Cov) add up to the bound of QMF, Theorem 1, but '
    'for the complexity of the experts. Correlations: 95 % bootstrap intervals over '
    'the examples.</p>',
    _gain(test, task),
  )


def _table(weights: Mapping[str, np.ndarray], losses: Mapping[str, np.ndarray]) -> str:
  """A row per expert, and the sums over experts."""
  covariance = confidence.fusion_covariance(weights, losses)
  correlations = confidence.weight_loss_correlations(weights, losses, _RESAMPLES)
  negative = confidence.negative_weight_rate(weights)
  rows = []
  for name, loss in losses.items():
    mean = weights[name].mean(axis=1)
    cells = [
      escape(name),
      _over_seeds(mean),
      f'{np.mean(negative[name]):.1%}',
      _over_seeds(loss.mean(axis=1)),
      _over_seeds(mean * loss.mean(axis=1)),
      _over_seeds(covariance[name]),
      *(_correlation(correlations[name][kind]) for kind in COEFFICIENTS),
    ]
    rows.append((cells, False))
  terms = confidence.bound_terms(weights, losses)
  sums = ['-'] * 3 + [_over_seeds(terms.loss), _over_seeds(terms.covariance)]
  rows.append((['sum', *sums, *['-'] * len(COEFFICIENTS)], True))
  header = ['expert', 'weight', 'negative', 'loss', 'weight times loss', 'covariance']
  return markup.table([*header, *COEFFICIENTS], rows)


def _over_seeds(values: np.ndarray) -> str:
  return markup.cell(estimate(values), '')


def _correlation(found: Correlation) -> str:
  if np.isnan(found.value):
    return '-'
  return f'{found.value:.3f}<small>[{found.low:.3f}, {found.high:.3f}]</small>'


def _gain(test: Predictions, task: Task) -> str:
  """Dynamic minus static, if there is a static counterpart."""
  try:
    found = confidence.dynamic_minus_static(test, task)
  except ValueError:
    return (
      '<p>The prediction is not the weighted sum of what the experts say, so there is '
      'no static fusion of the same mean weights to compare with.</p>'
    )
  rows = []
  for what, factor, digits, gain in (
    ('right answers (%)', 100, 2, found.correct),
    ('loss', 1, 4, found.loss),
  ):
    mean, low, high = (
      f'{factor * value:+.{digits}f}' for value in (gain.mean, gain.low, gain.high)
    )
    rows.append(([what, mean, f'[{low}, {high}]', f'{gain.p:.3g}'], False))
  tests = ', '.join(
    f'{by.only_first} against {by.only_second} (p = {by.p:.3g})' for by in found.by_seed
  )
  return (
    '<p>Dynamic weights minus static ones, every weight replaced by its mean over the '
    'test split, on the same examples:</p>'
    + markup.table(
      ['dynamic minus static', 'difference', '95 % interval', 'p'],
      rows,
    )
    + '<p class="note">Paired bootstrap over seeds and examples. Right with dynamic '
    f'weights only against static ones only, by seed, with McNemar&#39;s test: {tests}.'
    '</p>'
  )
