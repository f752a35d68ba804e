"""Draws the picture of the idea: `python docs/images/draw.py`."""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use('svg')

import matplotlib.pyplot as plt
from matplotlib.patches import (
  Circle,
  FancyBboxPatch,
  PathPatch,
  Polygon,
  Rectangle,
)
from matplotlib.path import Path as Curve

INK, PALE = '#24292f', '#8c959f'
CHEAP, DEAR = '#1f77b4', '#e36209'
TAKEN = (False, True, False, False, True)
"""Whether an example takes the dear path, from the top."""

GATE = (3.9, 2.5)
ROWS = (4.3, 3.4, 2.5, 1.6, 0.7)


def draw(path: Path) -> None:
  """Writes the picture as SVG; the same bytes every time, for one matplotlib."""
  plt.rcParams.update({'svg.hashsalt': 'jdyn', 'font.size': 11})
  figure = plt.figure(figsize=(9.0, 4.1))
  axes = figure.add_axes((0, 0, 1, 1))
  axes.set(xlim=(0, 11.2), ylim=(-0.1, 5.6))
  axes.axis('off')
  _text(axes, 0.9, 5.15, 'examples', color=PALE)
  for row, dear in zip(ROWS, TAKEN, strict=True):
    _example(axes, row, dear)
  _gate(axes)
  experts = {
    False: (6.0, 3.65, 1.9, 0.9, 'cheap expert', 'text'),
    True: (6.0, 0.55, 2.9, 2.2, 'dear expert', 'text and image'),
  }
  for dear, (x, y, width, height, name, reads) in experts.items():
    color = DEAR if dear else CHEAP
    count = TAKEN.count(dear)
    middle = y + height / 2
    for line in range(count):
      shift = 0.13 * (line - (count - 1) / 2)
      behind = GATE[1] + shift + (-0.2 if dear else 0.15)
      start, end = (GATE[0] + 0.62, behind), (x - 0.06, middle + shift)
      _flow(axes, start, end, color)
      _flow(axes, (x + width, middle + shift), (9.7, middle + shift), color)
    axes.add_patch(_box(x, y, width, height, color))
    _text(axes, x + width / 2, middle + 0.17, name, weight='bold')
    _text(axes, x + width / 2, middle - 0.2, f'reads {reads}', color=PALE, size=9)
  _text(axes, 9.85, 4.1, 'prediction', ha='left')
  _text(axes, 9.85, 1.65, 'prediction', ha='left')
  _text(axes, 6.0, 5.15, 'one path is computed for each', color=PALE, ha='left')
  _text(axes, 6.0, 0.15, 'area: multiply-accumulates', color=PALE, size=9, ha='left')
  figure.savefig(path, metadata={'Date': None}, facecolor='white')
  plt.close(figure)


def _example(axes, y: float, dear: bool) -> None:
  """Two modalities; the one that is not read is hollow."""
  color = DEAR if dear else CHEAP
  _flow(axes, (2.05, y), (GATE[0] - 0.62, GATE[1] + 0.1 * (y - GATE[1])), color)
  axes.add_patch(_box(0.25, y - 0.3, 1.75, 0.6, PALE, line=0.8))
  for line, length in enumerate((0.6, 0.45, 0.55)):
    at = y + 0.13 - 0.13 * line
    axes.plot([0.42, 0.42 + length], [at, at], color=color, linewidth=2)
  style = dict(facecolor=color, alpha=0.85) if dear else dict(fill=False, ls=':')
  edge = color if dear else PALE
  axes.add_patch(Rectangle((1.3, y - 0.2), 0.52, 0.4, edgecolor=edge, **style))
  if dear:  # A sun over a hill.
    axes.add_patch(Circle((1.68, y + 0.09), 0.055, color='white'))
    hill = [(1.34, y - 0.16), (1.5, y + 0.06), (1.66, y - 0.16)]
    axes.add_patch(Polygon(hill, color='white'))


def _gate(axes) -> None:
  x, y = GATE
  corners = [(x - 0.62, y), (x, y + 0.62), (x + 0.62, y), (x, y - 0.62)]
  axes.add_patch(Polygon(corners, facecolor='white', edgecolor=INK, linewidth=1.4))
  _text(axes, x, y, 'gate', weight='bold')
  _text(axes, x, y - 0.95, 'is the dear path worth', color=PALE, size=9)
  _text(axes, x, y - 1.25, 'its cost for this one?', color=PALE, size=9)


def _flow(axes, start, end, color) -> None:
  """A line that leaves and arrives level."""
  middle = (start[0] + end[0]) / 2
  points = [start, (middle, start[1]), (middle, end[1]), end]
  codes = [Curve.MOVETO, *[Curve.CURVE4] * 3]
  curve = PathPatch(Curve(points, codes), fill=False, edgecolor=color, linewidth=1.6)
  axes.add_patch(curve)


def _box(x, y, width, height, color, line=1.6) -> FancyBboxPatch:
  style = 'round,pad=0,rounding_size=0.12'
  return FancyBboxPatch(
    (x, y),
    width,
    height,
    boxstyle=style,
    facecolor='white',
    edgecolor=color,
    linewidth=line,
  )


def _text(axes, x, y, text, *, color=INK, size=11, ha='center', weight='normal'):
  axes.text(
    x, y, text, color=color, size=size, ha=ha, va='center', weight=weight, zorder=5
  )


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--out', type=Path, default=Path(__file__).parent / 'gate.svg')
  draw(parser.parse_args().out)
