"""Weights of classes of pixels, counted by hand."""

import math

import numpy as np
import pytest

from jdyn.data.balance import logarithmic, median_frequency
from jdyn.data.dataset import DataError

# Three images of 8, 4 and 4 pixels; 0 is void.
LABELS = [
  np.uint8([[1, 1, 1, 1], [2, 2, 0, 0]]),
  np.uint8([[1, 3], [3, 3]]),
  np.uint8([[0, 0], [0, 2]]),
]


def test_median_frequency():
  # Class 1 has 5 of the 12 pixels of its images, class 2 has 3 of 12, class 3 3 of 4.
  frequencies = [5 / 12, 3 / 12, 3 / 4]
  expected = [5 / 12 / frequency for frequency in frequencies]
  assert median_frequency(iter(LABELS), 3) == pytest.approx(expected)


def test_logarithmic():
  expected = [1 / math.log(1.02 + pixels / 11) for pixels in (5, 3, 3, 0)]
  assert logarithmic(iter(LABELS), 4) == pytest.approx(expected)


def test_a_class_without_a_pixel_has_no_median_frequency():
  with pytest.raises(DataError, match=r"labels \[4, 5\], .*'logarithmic'"):
    median_frequency(LABELS, 5)
