"""Vacuity and conflict of evidential fusions: a section of the report."""

from html import escape

import numpy as np

from jdyn.evaluators.confidence import EvidenceSummary, evidence_summaries
from jdyn.evaluators.report import markup, plots
from jdyn.evaluators.report.run import Run
from jdyn.evaluators.report.scores import estimate

_CONFLICT, _VACUITY = 'conflict', 'vacuity'


def section(run: Run, figure: markup.Figure) -> str:
  """What the main model knows that it does not know; empty for other models."""
  test = run.main.predictions['test']
  if not test.evidence:
    return ''
  vacuity = {
    name.removeprefix(f'{_VACUITY}/'): values
    for name, values in sorted(test.evidence.items())
    if name.startswith(f'{_VACUITY}/')
  }
  vacuity['fused'] = test.evidence[_VACUITY]
  conflict = {_CONFLICT: test.evidence[_CONFLICT]}
  whom = 'Of the test examples' + (', all seeds.' if len(run.main.seeds) > 1 else '.')
  rows = [
    (_cells(name, found), name == _VACUITY)
    for name, found in evidence_summaries(test, run.task).items()
  ]
  header = ['evidence', 'mean', 'where right', 'where wrong', 'AUROC of errors']
  return markup.section(
    'Evidence',
    markup.grid(
      [
        figure('Vacuity', plots.histograms(vacuity, 'C / S'), whom, (4.6, 3.5)),
        figure('Conflict', plots.histograms(conflict, 'K'), whom, (4.6, 3.5)),
      ]
    ),
    markup.table(header, rows),
    '<p class="note">Vacuity is the belief that is left for no class, C / S of the '
    'Dirichlet distribution; conflict is the belief of different views in different '
    "classes, Dempster's K. AUROC: the chance that a wrong answer of the model has "
    'more of it than a right one.</p>',
  )


def _cells(name: str, found: EvidenceSummary) -> list[str]:
  values = found.mean, found.right, found.wrong, found.auroc
  return [
    escape(name),
    *(markup.cell(estimate(of), '') if np.isfinite(of).all() else '-' for of in values),
  ]
