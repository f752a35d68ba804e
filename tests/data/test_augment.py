"""Augmentation beside what ESANet does, written out with other means."""

import matplotlib.colors
import numpy as np
import pytest

from jdyn.data import augment
from jdyn.data.augment import Augment, Example, change_colors, crop, flip, rescale

SHAPE = 24, 32


def _example(height, width):
  """Every image says where its pixels come from."""
  y, x = np.mgrid[:height, :width]
  place = (y * width + x).astype(np.uint16)
  label = (place % 41).astype(np.uint8)
  rgb = np.stack([4 * y, 4 * x, y + x], -1).astype(np.uint8)
  return Example(rgb, place, label)


def _rng(seed=0):
  return np.random.default_rng(seed)


def _check_same_pixels(got, source):
  """That depth and labels of a result show the same places of the source."""
  rows, columns = np.divmod(got.depth.astype(int), source.depth.shape[1])
  np.testing.assert_array_equal(got.label, source.label[rows, columns])
  return rows, columns


@pytest.mark.parametrize('seed', range(5))
def test_rescale_is_by_one_factor(seed):
  source = _example(30, 41)
  got = rescale(source, _rng(seed), (1.1, 1.9))
  factor = _rng(seed).uniform(1.1, 1.9)
  shape = round(30 * factor), round(41 * factor)
  assert (got.rgb.shape, got.depth.shape, got.label.shape) == (
    (*shape, 3),
    shape,
    shape,
  )
  rows, columns = _check_same_pixels(got, source)
  np.testing.assert_array_equal(rows[:, 0], np.arange(shape[0]) * 30 // shape[0])
  np.testing.assert_array_equal(columns[0], np.arange(shape[1]) * 41 // shape[1])
  # Colours are those of about the same place, and not of the nearest pixel.
  assert np.abs(got.rgb[..., 0] - 4.0 * rows).max() <= 6
  assert np.abs(got.rgb[..., 1] - 4.0 * columns).max() <= 6
  assert (got.rgb[..., 0] % 4 > 0).any()


def test_crop_never_reaches_the_last_row_and_column():
  source = _example(SHAPE[0] + 3, SHAPE[1] + 2)
  rng, corners = _rng(), set()
  for _ in range(100):
    got = crop(source, rng, *SHAPE)
    rows, columns = _check_same_pixels(got, source)
    assert rows.shape == SHAPE
    assert (np.diff(rows, axis=0) == 1).all()
    assert (np.diff(columns, axis=1) == 1).all()
    np.testing.assert_array_equal(got.rgb[..., 0], 4 * rows)
    np.testing.assert_array_equal(got.rgb[..., 1], 4 * columns)
    corners.add((rows[0, 0], columns[0, 0]))
  assert corners == {(top, left) for top in range(3) for left in range(2)}


@pytest.mark.parametrize('shape', [SHAPE, (24, 60), (60, 32), (20, 60), (10, 10)])
def test_what_is_not_larger_in_both_directions_is_resized(shape):
  source = _example(*shape)
  got = crop(source, _rng(), *SHAPE)
  assert got.rgb.shape == (*SHAPE, 3)
  rows, columns = _check_same_pixels(got, source)
  np.testing.assert_array_equal(rows[:, 0], np.arange(SHAPE[0]) * shape[0] // SHAPE[0])
  np.testing.assert_array_equal(columns[0], np.arange(SHAPE[1]) * shape[1] // SHAPE[1])


@pytest.mark.parametrize('how', ['fixed', 'paper'])
@pytest.mark.parametrize('seed', range(4))
def test_colours_change_as_with_matplotlib(how, seed):
  rgb = _rng(9).integers(0, 256, (40, 50, 3), dtype=np.uint8)
  rgb[0, :6] = [[0] * 3, [255] * 3, [255, 0, 0], [255, 0, 1], [90] * 3, [0, 0, 255]]
  got = change_colors(rgb, _rng(seed), how)
  rng = _rng(seed)
  h, s, v = np.moveaxis(matplotlib.colors.rgb_to_hsv(rgb / 255), -1, 0)
  h = np.clip(h * rng.uniform(0.9, 1.1), 0, 1)
  s = np.clip(s * rng.uniform(0.9, 1.1), 0, 1)
  change = {'fixed': lambda: v * rng.uniform(0.9, 1.1), 'paper': None}[how]
  v = change() if change else v + rng.uniform(-25, 25) / 255
  hsv = np.stack([h, s, np.clip(v, 0, 1)], -1)
  expected = 255 * matplotlib.colors.hsv_to_rgb(hsv)
  assert got.dtype == np.uint8
  assert np.abs(got - expected).max() < 0.51  # Rounded.
  assert not np.array_equal(got, rgb)


def test_half_of_the_images_are_flipped():
  source, rng = _example(3, 5), _rng()
  flipped = 0
  for _ in range(400):
    got = flip(source, rng)
    turned = bool(got.depth[0, 0] == source.depth[0, -1])
    for image, before in zip(got, source, strict=True):
      np.testing.assert_array_equal(image, before[:, ::-1] if turned else before)
    flipped += turned
  assert flipped == pytest.approx(200, abs=40)


def test_all_of_it_in_order(monkeypatch):
  called = []
  for name in ('rescale', 'crop', 'change_colors', 'flip'):
    function = getattr(augment, name)
    monkeypatch.setattr(
      augment,
      name,
      lambda *args, f=function, n=name: called.append(n) or f(*args),
    )
  source = _example(40, 50)
  got = Augment(*SHAPE)(source, _rng(3))
  assert called == ['rescale', 'crop', 'change_colors', 'flip']
  assert [image.shape for image in got] == [(*SHAPE, 3), SHAPE, SHAPE]
  assert [image.dtype for image in got] == [np.uint8, np.uint16, np.uint8]
  _check_same_pixels(got, source)
  again, other = (Augment(*SHAPE)(source, _rng(seed)) for seed in (3, 4))
  for image, same in zip(got, again, strict=True):
    np.testing.assert_array_equal(image, same)
  assert not np.array_equal(got.depth, other.depth)


def test_nothing_happens_where_nothing_is_asked_for():
  source = _example(*SHAPE)
  nothing = Augment(*SHAPE, scale=(1.0, 1.0), hsv='none', flip=False)
  for image, before in zip(nothing(source, _rng()), source, strict=True):
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'height': 0}, 'height=0, width=640'),
    ({'scale': (1.4, 1.0)}, r'scale=\(1.4, 1.0\)'),
    ({'scale': (0.0, 1.0)}, r'scale=\(0.0, 1.0\)'),
    ({'hsv': 'jitter'}, "hsv='jitter'; expected one of"),
  ],
)
def test_options_that_make_no_sense_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    Augment(**options)
