"""The results of a sweep: one table, as CSV, as text, and with a plot as a page."""

import contextlib
import csv
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

import numpy as np

from jdyn.evaluators.report.run import Run, read_run
from jdyn.evaluators.report.scores import Estimate, Row, estimate, static_rows
from jdyn.evaluators.tables import as_text, label
from jdyn.metrics.interval import summarize

_STAND_IN = 'synthetic stand-in'

_CSS = """
:root { color-scheme: light dark }
body { background: Canvas; color: CanvasText; font: 16px/1.45 system-ui, sans-serif;
  margin: 0 auto; max-width: 60rem; padding: 0.5rem 1rem 3rem }
.alarm { background: #b00020; color: #fff; font-weight: bold; padding: 0.7rem 1rem }
svg { height: auto; max-width: 100% }
pre { overflow-x: auto }
"""


@dataclasses.dataclass(frozen=True)
class SweepTable:
  """What a sweep found, on the test split.

  Attributes:
    workdir: of the sweep.
    settings: value by swept key, of each variant by name.
    runs: by variant.
    missing: variants that are not finished; nothing here is of them.
  """

  workdir: Path
  settings: Mapping[str, Mapping[str, Any]]
  runs: Mapping[str, Run]
  missing: Sequence[str] = ()

  @property
  def origin(self) -> str:
    """Whether the data are real, bundled or a stand-in."""
    return next(iter(self.runs.values())).origin

  @property
  def main_score(self) -> str:
    """The score that counts."""
    return next(iter(self.runs.values())).task.main_score

  def records(self) -> list[dict[str, Any]]:
    """One row per variant and seed: its keys, and every number of the test split."""
    found = []
    for name, run in self.runs.items():
      test, valid = run.main.scores['test'], run.main.scores['valid']
      for s, seed in enumerate(run.main.seeds):
        row = {f'config.{key}': value for key, value in self.settings[name].items()}
        row |= {'seed': seed, 'origin': run.origin, 'n': test['n']}
        row |= {score: values[s] for score, values in test['model'].items()}
        row['macs'] = test['macs'][s]
        row |= {f'usage/{path}': shares[s] for path, shares in test['usage'].items()}
        row[f'valid/{self.main_score}'] = valid['model'][self.main_score][s]
        row['best_epoch'] = run.main.best_epoch[s]
        found.append(row)
    return found

  def cells(self) -> list[list[str]]:
    """The table for readers, its header first: a row per variant, means over seeds."""
    score = self.main_score
    paths = list({path: 0 for run in self.runs.values() for path in run.main.paths})
    keys = list(next(iter(self.settings.values())))
    found = [[*keys, 'MACs', f'test {score}', f'valid {score}', *paths]]
    for name, run in self.runs.items():
      test, valid = run.main.scores['test'], run.main.scores['valid']
      row = [label(value) for value in self.settings[name].values()]
      row += [_spread(test['macs'], '{:,.0f}')]
      row += [_spread(values['model'][score], '{:.4f}') for values in (test, valid)]
      usage = test['usage']
      row += [_spread(usage[path], '{:.1%}') if path in usage else '' for path in paths]
      found.append(row)
    for row in self.static():
      cells = [row.name, *[''] * (len(keys) - 1)]
      cells += [_spread(row.macs, '{:,.0f}'), _spread(row.scores[score], '{:.4f}')]
      found.append([*cells, *[''] * (1 + len(paths))])
    return found

  def static(self) -> list[Row]:
    """The experts by themselves; once, where variants share them.

    Where they do not, the name of a row says in which settings its variants differ
    from those of the expert's other rows.
    """
    experts: dict[str, dict[tuple[float, ...], tuple[Row, list[str]]]] = {}
    for name, run in self.runs.items():
      for row in static_rows(run, 'test'):
        same = experts.setdefault(row.name, {})
        numbers = (*row.macs, *row.scores[self.main_score])
        same.setdefault(numbers, (row, []))[1].append(name)
    return [
      dataclasses.replace(row, name=f'{row.name} alone{where}')
      for same in experts.values()
      for (row, _), where in zip(
        same.values(),
        self._differences([names for _, names in same.values()]),
        strict=True,
      )
    ]

  def _differences(self, groups: Sequence[Sequence[str]]) -> list[str]:
    """For groups of variants, the settings that tell one group from another."""
    keys = next(iter(self.settings.values()))
    found: list[list[str]] = [[] for _ in groups]
    for key in keys:
      texts = [
        '|'.join(dict.fromkeys(label(self.settings[name][key]) for name in names))
        for names in groups
      ]
      if len(set(texts)) > 1:
        for parts, text in zip(found, texts, strict=True):
          parts.append(f'{key}={text}')
    return [f' ({", ".join(parts)})' if parts else '' for parts in found]

  def text(self) -> str:
    """The table as lines of text, with what its numbers are."""
    return f'{self._title()}\n{as_text(self.cells())}'

  def _title(self) -> str:
    run = next(iter(self.runs.values()))
    several = len(run.main.seeds) > 1
    spread = ', ± 95 % interval of the mean (Student t)' if several else ''
    stamp = f' [{_STAND_IN.upper()}]' if self.origin == _STAND_IN else ''
    missing = f' Not finished: {", ".join(self.missing)}.' if self.missing else ''
    return (
      f'{run.dataset}{stamp}: {len(self.runs)} variants, {len(run.main.seeds)} seeds'
      f'{spread}; {run.sizes["test"]:,} test examples. Last columns: share of the test '
      f'examples by path.{missing}'
    )


def write_table(
  workdir: Path, settings: Mapping[str, Mapping[str, Any]], missing: Sequence[str] = ()
) -> SweepTable:
  """Writes `results.csv` and `results.html` from the finished runs of a sweep.

  Args:
    workdir: of the sweep; each variant has a folder in it.
    settings: value by swept key, of each finished variant by its folder's name.
    missing: names of the variants that are not finished.

  Raises:
    DataError: a file of a run is missing, damaged or of another run.
  """
  runs = {name: read_run(workdir / name) for name in settings}
  table = SweepTable(workdir, settings, runs, missing)
  records = table.records()
  columns = list({column: None for record in records for column in record})
  with _whole(workdir / 'results.csv') as file:
    writer = csv.DictWriter(file, columns, restval='')
    writer.writeheader()
    writer.writerows(records)
  with _whole(workdir / 'results.html') as file:
    file.write(_page(table))
  return table


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[TextIO]:
  """A text file that is replaced once it is written as a whole."""
  partial = path.with_suffix(f'{path.suffix}.partial')
  with open(partial, 'w', newline='', encoding='utf-8') as file:
    yield file
  os.replace(partial, path)


def _page(table: SweepTable) -> str:
  """The plot and the table in one HTML text."""
  from jdyn.evaluators.report import plots  # Matplotlib is slow to import.

  stand_in = table.origin == _STAND_IN
  stamp = f' [{_STAND_IN}]' if stand_in else ''
  title = f'Test {table.main_score} against executed MACs{stamp}'
  svg = plots.render('sweep', title, _painter(table), (7.0, 4.6))
  alarm = '<p class="alarm">SYNTHETIC STAND-IN: the data are made up.</p>'
  links = ', '.join(
    f'<a href="{quote(name)}/">{escape(name)}</a>' for name in table.settings
  )
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    f'<title>{escape(table.workdir.resolve().name)}</title>\n'
    f'<style>{_CSS}</style>\n</head>\n<body>\n{alarm if stand_in else ""}\n{svg}\n'
    f'<pre>{escape(table.text())}</pre>\n<p>Folders of the runs: {links}.</p>\n'
    '<p><code>python -m jdyn.report --workdir FOLDER</code> writes the report of one '
    'into its folder.</p>\n</body>\n</html>\n'
  )


def _painter(table: SweepTable):
  """Score against MACs: a point per variant, joined along the first swept key."""
  from matplotlib.ticker import EngFormatter

  score = table.main_score

  def paint(axes) -> None:
    lines: dict[str, list[tuple[str, Estimate, Estimate]]] = {}
    for name, run in table.runs.items():
      test = run.main.scores['test']
      (_, first), *others = table.settings[name].items()
      line = ', '.join(f'{key}={label(value)}' for key, value in others)
      point = (label(first), estimate(test['macs']), estimate(test['model'][score]))
      lines.setdefault(line, []).append(point)
    key = next(iter(next(iter(table.settings.values()))))
    for line, points in lines.items():
      name = f'by {key}' + (f', {line}' if line else '')
      _errorbars(axes, [p[1] for p in points], [p[2] for p in points], 'o-', name)
      for text, x, y in points:
        place = {'xytext': (5, 5), 'textcoords': 'offset points', 'fontsize': 8}
        axes.annotate(text, (x.mean, y.mean), **place)
    for row in table.static():
      at = [estimate(row.macs)], [estimate(row.scores[score])]
      _errorbars(axes, *at, 's', row.name)
    axes.xaxis.set_major_formatter(EngFormatter(sep=''))
    axes.margins(x=0.1, y=0.15)
    axes.set(xlabel='multiply-accumulates per example', ylabel=f'test {score}')
    axes.figure.legend(loc='outside lower center', ncols=2)

  return paint


def _errorbars(axes, x: Sequence[Estimate], y: Sequence[Estimate], style, name):
  axes.errorbar(
    [at.mean for at in x],
    [at.mean for at in y],
    xerr=np.transpose([at.errors for at in x]),
    yerr=np.transpose([at.errors for at in y]),
    fmt=style,
    linewidth=1,
    capsize=3,
    label=name,
  )


def _spread(values: Sequence[float], form: str) -> str:
  """Mean and half the width of its interval, if there are several seeds."""
  found = summarize(values)
  mean = form.format(found.mean)
  if found.count == 1:
    return mean
  return f'{mean} ± {form.format(found.high - found.mean)}'
