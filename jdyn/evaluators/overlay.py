"""A picture of a prediction: the image in the colours of its classes, and a legend."""

import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

_SHARE = 0.5  # Of the colour in the blend.
_LEAST = 640  # Pixels of the longer side; smaller images are enlarged.
_STYLE = {
  'font.size': 10,
  'text.color': '#202020',
  'text.parse_math': False,  # A dollar in a class name is a dollar.
}
_DPI = 100


def shares(classes: np.ndarray, num_classes: int) -> np.ndarray:
  """The share of the pixels that each class has, `f64[C]`.

  Args:
    classes: `u8[H, W]`, one more than the class.
    num_classes: C.
  """
  counts = np.bincount(classes.ravel(), minlength=num_classes + 1)
  return counts[1:] / classes.size


def gray(depth: np.ndarray) -> np.ndarray:
  """A depth image `u16[H, W]` to be looked at, `u8[H, W, 3]`: what is near is bright.

  Pixels where nothing was measured, stored as 0, are black.
  """
  seen = depth[depth > 0]
  near, far = np.percentile(seen, [1, 99]) if seen.size else (0, 1)
  away = (depth.astype(np.float32) - near) / max(far - near, 1)
  bright = np.where(depth > 0, 255 - 215 * np.clip(away, 0, 1), 0)
  return np.repeat(bright.astype(np.uint8)[..., None], 3, axis=2)


def blend(image: np.ndarray, classes: np.ndarray, colors: np.ndarray) -> np.ndarray:
  """An image `u8[H, W, 3]` with the colours of its classes over it.

  Args:
    image: `u8[H, W, 3]`.
    classes: `u8[H, W]`, one more than the class.
    colors: `u8[C + 1, 3]`, the first of which is void's.
  """
  mixed = (1 - _SHARE) * image + _SHARE * colors[classes].astype(np.float32)
  return np.round(mixed).astype(np.uint8)


def overlay(
  image: np.ndarray,
  classes: np.ndarray,
  names: Sequence[str],
  colors: np.ndarray,
  caption: Sequence[str],
) -> np.ndarray:
  """`blend` above a caption, beside the classes that are there: `u8[h, w, 3]`.

  The image is in the upper left corner; a small one is enlarged, pixel by pixel.

  Args:
    image: `u8[H, W, 3]`.
    classes: `u8[H, W]`, one more than the class.
    names: of the `C` classes.
    colors: `u8[C + 1, 3]`, the first of which is void's.
    caption: lines; long ones are wrapped.
  """
  height, width = (max(1, -(-_LEAST // max(classes.shape))) * n for n in classes.shape)
  share = shares(classes, len(names))
  there = [c for c in np.argsort(-share, kind='stable') if share[c]]
  line = max(24, max(height, width) // 40)
  # A letter is half as wide as its line is high, or less.
  legend = line * 6 + line * max(len(names[c]) for c in there) // 2
  total = width + legend
  text = [part for row in caption for part in textwrap.wrap(row, 2 * total // line)]
  rows = max(height, line * (len(there) + 1)) + line * (len(text) + 1)
  with matplotlib.rc_context(_STYLE):
    figure = Figure(figsize=(total / _DPI, rows / _DPI), dpi=_DPI)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(
      blend(image, classes, colors),
      extent=(0, width, height, 0),
      interpolation='nearest',
      aspect='auto',
    )
    axes.set(xlim=(0, total), ylim=(rows, 0))
    axes.axis('off')
    size = 0.62 * line * 72 / _DPI
    for row, c in enumerate(there):
      _entry(axes, width, line, row, names[c], colors[c + 1] / 255, share[c], size)
    for row, part in enumerate(text, 1):
      y = rows - line * (len(text) + 1 - row) - 0.1 * line
      axes.text(0.5 * line, y, part, size=size, va='center')
    canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _entry(
  axes: Axes,
  left: int,
  line: int,
  row: int,
  name: str,
  color: np.ndarray,
  share: float,
  size: float,
) -> None:
  """A line of the legend: colour, share of the pixels, name."""
  top = line * (row + 0.5)
  axes.add_patch(
    Rectangle((left + 0.5 * line, top + 0.15 * line), line, 0.7 * line, color=color)
  )
  y = top + 0.5 * line
  percent = f'{100 * share:.1f} %' if share >= 1e-3 else '< 0.1 %'
  axes.text(left + 4.2 * line, y, percent, size=size, va='center', ha='right')
  axes.text(left + 4.7 * line, y, name, size=size, va='center')
