"""Pieces of the page: numbers for readers, tables, sections."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Protocol

from jdyn.evaluators.report.plots import Painter
from jdyn.evaluators.report.scores import Estimate


class Figure(Protocol):
  """Draws a plot of the page."""

  def __call__(
    self,
    title: str,
    paint: Painter,
    caption: str,
    size: tuple[float, float] = (4.6, 3.1),
  ) -> str:
    """A plot, with its title above, its caption below, and a size in inches."""


def score_label(name: str) -> str:
  """A score's name for readers, with its unit."""
  return score_name(name) + (' (%)' if factor(name) == 100 else '')


def score_name(name: str) -> str:
  """A score's name for readers."""
  for short in ('f1', 'mae', 'auc', 'ece'):
    name = name.replace(short, short.upper())
  return name.replace('miou', 'mIoU').replace('_', ' ')


def factor(name: str) -> int:
  """Accuracies, F1 and mIoU are shown in percent, everything else as it is."""
  return 100 if any(part in name for part in ('acc', 'f1', 'iou')) else 1


def number(value: float, name: str, sign: str = '') -> str:
  """A score with the digits that a reader needs; `sign` '+' always shows the sign."""
  scale = factor(name)
  return f'{value * scale:{sign}.{2 if scale == 100 else 4}f}'


def cell(found: Estimate | None, name: str) -> str:
  """A score, and below it its interval if it has one."""
  if found is None:
    return '-'
  ends = interval(found, name)
  return number(found.mean, name) + (f'<small>{ends}</small>' if ends else '')


def interval(found: Estimate, name: str) -> str:
  """The ends of a score's interval in brackets; empty if it has none."""
  if found.low is None:
    return ''
  return f'[{number(found.low, name)}, {number(found.high, name)}]'


def count(value: float) -> str:
  """A number of operations in thousands, millions or billions."""
  for unit, scale in (('G', 1e9), ('M', 1e6), ('k', 1e3)):
    if value >= scale:
      return f'{value / scale:.3g} {unit}' if value < 999.5 * scale else f'{value:,.0f}'
  return f'{value:.0f}'


def plain(value: Any) -> str:
  """A JSON value on one line."""
  if isinstance(value, Mapping):
    return ', '.join(f'{name} {plain(item)}' for name, item in value.items())
  if isinstance(value, list):
    return ', '.join(map(plain, value))
  return str(value)


def facts(texts: Mapping[str, str]) -> str:
  """A table of names and texts, both escaped."""
  rows = ''.join(
    f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(text))}</td></tr>'
    for name, text in texts.items()
  )
  return f'<div class="scroll"><table class="facts">{rows}</table></div>'


def table(header: Sequence[str], rows: Iterable[tuple[Sequence[str], bool]]) -> str:
  """A table; the header is escaped here, the cells are markup, some rows stand out."""
  head = ''.join(f'<th scope="col">{escape(name)}</th>' for name in header)
  body = ''.join(
    f'<tr{" class=strong" if strong else ""}>'
    + ''.join(f'<td>{markup}</td>' for markup in cells)
    + '</tr>\n'
    for cells, strong in rows
  )
  return (
    f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n'
    f'<tbody>\n{body}</tbody></table></div>'
  )


def section(title: str, *parts: str) -> str:
  """A part of the page; the title is escaped here, the parts are markup."""
  return f'<section>\n<h2>{escape(title)}</h2>\n' + '\n'.join(parts) + '\n</section>'


def details(summary: str, content: str) -> str:
  """Content that is folded away until asked for."""
  return f'<details><summary>{escape(summary)}</summary>\n{content}</details>'


def grid(figures: Sequence[str]) -> str:
  """Plots side by side, as many as the window holds."""
  return '<div class="plots">' + '\n'.join(figures) + '</div>'
