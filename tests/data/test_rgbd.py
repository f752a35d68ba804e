"""What RGB-D datasets share: normalised inputs, and colours of classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdyn.data.dataset import DataError
from jdyn.data.pipeline import assemble
from jdyn.data.rgbd import Normalise, class_colors
from jdyn.data.sources.nyuv2 import NYUv2
from jdyn.data.sources.sunrgbd import SUNRGBD

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (2, 5, 6, 3), dtype=np.uint8)
DEPTH = RNG.integers(0, 2**16, (2, 5, 6), dtype=np.uint16)
DEPTH[0, 0] = 0
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.mark.parametrize('keep_holes', [False, True])
def test_inputs_are_normalised(keep_holes):
  got = Normalise(2841.9, 1417.3, keep_holes)({'rgb': RGB, 'depth': DEPTH})
  np.testing.assert_allclose(got['rgb'], (RGB / 255 - MEAN) / STD, atol=2e-6)
  depth = (DEPTH.astype(np.float64) - 2841.9) / 1417.3
  if keep_holes:
    depth[DEPTH == 0] = 0
  np.testing.assert_allclose(got['depth'], depth[..., None], rtol=1e-5, atol=2e-6)
  assert {value.dtype for value in got.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize('keep_holes', [False, True])
def test_a_compiled_program_gets_the_same_numbers(keep_holes):
  normalise = Normalise(19025.1, 9880.9, keep_holes)
  inputs = {'rgb': RGB, 'depth': DEPTH}
  expected = normalise(inputs)
  got = jax.jit(normalise)({name: jnp.asarray(inputs[name]) for name in inputs})
  for name in inputs:
    np.testing.assert_array_equal(got[name], expected[name])


def test_colours_of_classes_are_those_of_pascal_voc():
  colors = class_colors(40)
  assert colors.dtype == np.uint8
  for label, color in enumerate(colors):
    red = green = blue = 0
    for bit in range(8):
      digit = label // 8**bit
      red += (digit % 2) << (7 - bit)
      green += (digit // 2 % 2) << (7 - bit)
      blue += (digit // 4 % 2) << (7 - bit)
    assert color.tolist() == [red, green, blue]
  # As published.
  assert colors[[0, 1, 2, 3, 4, 15]].tolist() == [
    *([0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [192, 128, 128])
  ]


@pytest.mark.parametrize('depth', ['refined', 'raw'])
@pytest.mark.parametrize('source', [NYUv2, SUNRGBD])
def test_images_of_no_split_are_read_like_those_of_splits(tmp_path, source, depth):
  source(height=24, width=32).write_stand_in(tmp_path, 0)
  source = source(height=16, width=20, depth=depth)
  split = source.load(tmp_path)['test']
  (rgb, far) = (split.inputs[name]._paths for name in ('rgb', 'depth'))
  got = source.read({'rgb': rgb[:3], 'depth': far[:3]})
  want = assemble(split, np.arange(3))['inputs']
  for name in want:
    np.testing.assert_array_equal(got[name], want[name])
  alone = source.read({'depth': far[:1]})
  assert list(alone) == ['depth']
  assert alone['depth'].shape == (1, 16, 20, 1)


def test_images_of_a_scene_are_of_one_size(tmp_path):
  NYUv2(height=24, width=32).write_stand_in(tmp_path / 'a', 0)
  NYUv2(height=24, width=36).write_stand_in(tmp_path / 'b', 0)
  files = {
    'rgb': [tmp_path / 'a/test/rgb/0025.png'],
    'depth': [tmp_path / 'b/test/depth/0025.png'],
  }
  with pytest.raises(
    DataError, match=r'depth/0025\.png: 24 by 36 .*0025\.png has 24 by'
  ):
    NYUv2().read(files)
