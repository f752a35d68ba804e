"""Synthetic RGB-D scenes for the stand-ins, in which a gate has something to find.

Before a wall and a floor stand objects. Classes come in pairs: of one pair, the two
have colours of their own and the depth of the wall; of the next pair, they share a
colour, and one stands nearer than the wall and the other farther away. Easy images
show only the former, so there the depth is not worth its price.
"""

import colorsys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

_EASY = 0.4  # The share of images without objects that only depth tells apart.
_GRID = 3, 4  # Cells of an image, each with room for one object.
_OBJECTS = 10
_BY_DEPTH = 7  # Of the objects of an image that is not easy.
# Far enough apart that the changes of colour in training do not mix them up.
_HUES = 24 * 1.3 ** np.arange(11) / 360
_COLORS = np.array(
  [
    colorsys.hsv_to_rgb(h, s, v)
    for v in (0.95, 0.5)
    for s in (0.95, 0.5)
    for h in _HUES
  ],
  np.float32,
)


class Scene(NamedTuple):
  """One image.

  Attributes:
    rgb: `u8[H, W, 3]`.
    depth: `u16[H, W]`.
    depth_raw: the same with holes, which are 0.
    label: `u8[H, W]`: 0 around objects, which is void, and class c is c + 1.
  """

  rgb: np.ndarray
  depth: np.ndarray
  depth_raw: np.ndarray
  label: np.ndarray


def scenes(
  rng: np.random.Generator,
  num_classes: int,
  shapes: Sequence[tuple[int, int]],
  depth_mean: float,
  depth_std: float,
) -> Iterator[Scene]:
  """Scenes of the given shapes, about 30 of which show every class a few times.

  Args:
    rng: what is drawn depends on it and on the other arguments.
    num_classes: C; the first is the wall and the second the floor.
    shapes: height and width of each.
    depth_mean: of the wall.
    depth_std: how much nearer or farther objects may be.
  """
  pair = np.arange(num_classes) // 2
  by_depth = pair % 2 == 1
  color = 255 * _COLORS[_color_numbers(by_depth)]
  sign = np.where(np.arange(num_classes) % 2, 1, -1)
  depth = np.float32(depth_mean + depth_std * by_depth * sign)
  plain = _Deck(rng, np.flatnonzero(~by_depth)[2:])
  twins = _Deck(rng, np.flatnonzero(by_depth))
  for number, (height, width) in enumerate(shapes):
    # Spread evenly, so that every part of the images has easy ones.
    easy = int((number + 1) * _EASY) > int(number * _EASY)
    count = 0 if easy else _BY_DEPTH
    objects = [*twins.take(count), *plain.take(_OBJECTS - count)]
    shown, label = _arrange(rng, rng.permutation(objects), height, width)
    rgb = color[shown] + 8 * _blocks(rng, height, width, 3)
    away = depth[shown] + 0.1 * depth_std * _blocks(rng, height, width)
    away = np.clip(away, 1, 65535).astype(np.uint16)
    seen = _blocks(rng, height, width) < 1.3
    yield Scene(np.clip(rgb, 0, 255).astype(np.uint8), away, away * seen, label)


class _Deck:
  """Classes in random order, every one as often as the others."""

  def __init__(self, rng: np.random.Generator, cards: np.ndarray):
    self._rng, self._cards, self._left = rng, cards, []

  def take(self, count: int) -> list[int]:
    while len(self._left) < count:
      self._left += self._rng.permutation(self._cards).tolist()
    taken, self._left = self._left[:count], self._left[count:]
    return taken


def _color_numbers(by_depth: np.ndarray) -> np.ndarray:
  """Which of the colours each class has: the second of a pair may have the first's."""
  own = np.ones(len(by_depth), int)
  own[1::2] = ~by_depth[1::2]
  # Neighbours in the table look alike; 13 and 44 have no common divisor.
  return (np.cumsum(own) - 1) * 13 % len(_COLORS)


def _arrange(
  rng: np.random.Generator, objects: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
  """What each pixel shows `u8[H, W]`, and the label image `u8[H, W]`."""
  shown = np.zeros((height, width), np.uint8)
  shown[int(height * rng.uniform(0.5, 0.7)) :] = 1
  void = np.zeros((height, width), bool)
  edge = max(1, height // 120)
  cells = rng.permutation(_GRID[0] * _GRID[1])[: len(objects)]
  for kind, cell in zip(objects, cells, strict=True):
    places = np.unravel_index(cell, _GRID)
    spans = [
      _span(rng, place, count, length)
      for place, count, length in zip(places, _GRID, shown.shape, strict=True)
    ]
    power = rng.choice([2, np.inf])  # A disc, or a box.
    around = _inside(spans, edge, shown.shape, power)
    inside = _inside(spans, 0, shown.shape, power)
    void |= around & ~inside
    shown[inside], void[inside] = kind, False
  return shown, np.where(void, 0, shown + 1).astype(np.uint8)


def _span(
  rng: np.random.Generator, place: int, count: int, length: int
) -> tuple[float, float]:
  """Centre and half the size of an object along one axis, inside of its cell."""
  cell = length / count
  radius = cell * rng.uniform(0.32, 0.45)
  return place * cell + rng.uniform(radius, cell - radius), radius


def _inside(
  spans: Sequence[tuple[float, float]],
  more: float,
  shape: tuple[int, int],
  power: float,
) -> np.ndarray:
  """Which pixels `bool[H, W]` are within an object that is larger by `more`."""
  y, x = (
    np.abs(np.arange(length) + 0.5 - centre) / (radius + more)
    for (centre, radius), length in zip(spans, shape, strict=True)
  )
  if power == np.inf:
    return (y < 1)[:, None] & (x < 1)
  return (y**power)[:, None] + x**power < 1


def _blocks(
  rng: np.random.Generator, height: int, width: int, *channels: int
) -> np.ndarray:
  """Standard normal noise in blocks, which compresses well: `f32[H, W, *channels]`."""
  size = max(1, height // 60)
  shape = -(-height // size), -(-width // size), *channels
  coarse = rng.standard_normal(shape, dtype=np.float32)
  return coarse.repeat(size, 0).repeat(size, 1)[:height, :width]
