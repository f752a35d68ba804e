"""The picture of a prediction: colours over the image, and who is in the legend."""

import numpy as np
import pytest

from jdyn.evaluators.overlay import blend, gray, overlay, shares

RNG = np.random.default_rng(0)
COLORS = np.array([[0, 0, 0], [250, 0, 0], [0, 250, 0], [0, 0, 250]], np.uint8)
NAMES = ('floor', 'wall', '$lamp$')


def _scene(height, width):
  """Rows of `$lamp$`, and below them fewer of `floor`."""
  classes = np.full((height, width), 3, np.uint8)
  classes[-height // 3 :] = 1
  return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8), classes


def test_shares_are_of_all_pixels():
  classes = np.array([[1, 3, 3, 3]], np.uint8)
  assert shares(classes, 4).tolist() == [0.25, 0, 0.75, 0]


def test_a_pixel_is_half_its_own_and_half_its_class():
  image, classes = _scene(6, 5)
  got = blend(image, classes, COLORS)
  assert got.dtype == np.uint8
  want = 0.5 * image + 0.5 * COLORS.astype(float)[classes]
  np.testing.assert_allclose(got, want, atol=0.5)


@pytest.mark.parametrize(('size', 'factor'), [((9, 40), 16), ((700, 200), 1)])
def test_the_image_is_in_the_corner_and_a_small_one_enlarged(size, factor):
  image, classes = _scene(*size)
  got = overlay(image, classes, NAMES, COLORS, ['one line'])
  height, width = factor * size[0], factor * size[1]
  assert got.dtype == np.uint8
  assert got.shape[0] > height
  assert got.shape[1] > width
  want = blend(image, classes, COLORS).repeat(factor, 0).repeat(factor, 1)
  np.testing.assert_allclose(got[:height, :width], want, atol=1)


def test_the_legend_has_the_classes_that_are_there_the_greatest_first():
  image, classes = _scene(30, 40)
  got = overlay(image, classes, NAMES, COLORS, ['one line'])
  legend = got[:, 640:].reshape(-1, 3)
  first = [np.flatnonzero((legend == color).all(1)) for color in COLORS[1:]]
  assert len(first[1]) == 0
  assert first[2].max() < first[0].min()


def test_a_caption_is_wrapped_and_not_cut():
  image, classes = _scene(30, 40)
  heights = [
    overlay(image, classes, NAMES, COLORS, ['word ' * count]).shape[0]
    for count in (1, 40, 80)
  ]
  assert heights[0] < heights[1] < heights[2]
  got = overlay(image, classes, NAMES, COLORS, ['word ' * 80])
  assert (got[:, -2:] == 255).all()


def test_depth_is_gray_near_is_bright_and_a_hole_black():
  depth = np.arange(1000, 1400, dtype=np.uint16).reshape(20, 20)
  depth[3] = 0
  got = gray(depth)
  assert got.shape == (20, 20, 3)
  assert (got == got[..., :1]).all()
  assert not got[3].any()
  seen = got[depth > 0, 0]
  assert (np.diff(seen.astype(int)) <= 0).all()
  assert seen[0] > 4 * seen[-1] > 0
  assert not gray(np.zeros((2, 2), np.uint16)).any()
