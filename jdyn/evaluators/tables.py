"""The tables that a command prints: scores and costs, measured times, and sweeps."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jdyn.metrics.interval import summarize


def score_table(
  scores: Mapping[str, Any], path_macs: Mapping[str, int], total_macs: int
) -> list[list[str]]:
  """Scores with their 95 % intervals over seeds: a line per path, the header first.

  Args:
    scores: from `score_all`.
    path_macs: multiply-accumulates per example by path, with all the steps that
      solvers may take.
    total_macs: likewise, when everything is computed.
  """
  names = list(scores['model'])
  rows = [('model', scores['macs'], scores['model'])]
  rows += [
    (path, [path_macs.get(path, total_macs)], values)
    for path, values in scores['paths'].items()
  ]
  if 'uniform' in scores:
    rows.append(('uniform', [total_macs], scores['uniform']))
  table = [['', 'MACs', *names]]
  for label, macs, values in rows:
    cells = []
    for name in names:
      found = summarize(values[name])
      spread = '' if found.count == 1 else f' ± {found.high - found.mean:.4f}'
      cells.append(f'{found.mean:.4f}{spread}')
    table.append([label, f'{sum(macs) / len(macs):,.0f}', *cells])
  return table


def subset_table(found: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
  """Scores by the modalities that are there: the header first, then a line per set.

  A column `n` has the numbers of examples, where they are not the same for all sets.

  Args:
    found: from `score_all`, by the names of the modalities.
  """
  sizes = {name: scores['n'] for name, scores in found.items()}
  differ, rows = len(set(sizes.values())) > 1, []
  for name, scores in found.items():
    header, row, *_ = score_table(scores, {}, 0)
    rows.append([name, *([f'{sizes[name]:,}'] if differ else []), *row[1:]])
  return [['present', *(['n'] if differ else []), *header[1:]], *rows]


def runs_table(found: Sequence[Mapping[str, Any]]) -> list[list[str]]:
  """Scores over several draws of noise: the header first, then a line per score.

  The standard deviation is that of the draws themselves (divided by their number), as
  DynMM's robustness evaluation prints it.

  Args:
    found: from `score_all`, by draw.
  """
  table = [['', 'mean', 'std', 'least', 'most']]
  for name in found[0]['model']:
    values = [statistics.fmean(scores['model'][name]) for scores in found]
    numbers = statistics.fmean(values), statistics.pstdev(values)
    row = (*numbers, min(values), max(values))
    table.append([name, *(f'{number:.4f}' for number in row)])
  return table


def latency_table(
  batches: Iterable[Mapping[str, Any]], path_macs: Mapping[str, int], total_macs: int
) -> list[list[str]]:
  """Milliseconds per example by batch size: the header first, then a row of MACs.

  Args:
    batches: each from `time_batch`.
    path_macs: multiply-accumulates per example by path; columns are in this order.
    total_macs: when everything is computed.
  """
  paths = list(path_macs)
  header = ['batch', 'policy', 'dense', *paths, 'gated', 'gated MACs', 'realised']
  macs = [f'{count:,}' for count in (total_macs, *path_macs.values())]
  table = [header, ['MACs', '-', *macs, '-', '-', '-']]
  for batch in batches:
    times = [batch['dense'], *(batch['paths'][path] for path in paths), batch['gated']]
    table.append(
      [
        f'{batch["size"]}',
        batch['policy'],
        *(f'{time:.3g} ms' for time in times),
        f'{batch["gated_macs"]:,.0f}',
        f'{100 * batch["realised"]:.0f} %',
      ]
    )
  return table


def label(value: Any) -> str:
  """A setting as a person writes it."""
  if isinstance(value, float) and float(f'{value:g}') == value:
    return f'{value:g}'
  return str(value)


def as_text(table: Sequence[Sequence[str]]) -> str:
  """Columns as wide as they need, the first one aligned to the left."""
  widths = [max(map(len, column)) for column in zip(*table, strict=True)]
  return '\n'.join(
    '  '.join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
    for row in table
  )
