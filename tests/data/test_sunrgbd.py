"""SUN RGB-D in the layout of ESANet: sizes, cameras, splits, and what is refused."""

import dataclasses
import shutil

import cv2
import numpy as np
import pytest

from jdyn.data import image_files
from jdyn.data.dataset import DataError
from jdyn.data.load import load
from jdyn.data.pipeline import assemble
from jdyn.data.sources.sunrgbd import CAMERAS, SUNRGBD, camera

SOURCE = SUNRGBD(height=24, width=32)
SIZES = {'kv1': (21, 28), 'kv2': (26, 36), 'realsense': (26, 34), 'xtion': (22, 29)}
SCENE = 'kv2/stand_in/scene0001'


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  root = tmp_path_factory.mktemp('sunrgbd')
  SOURCE.write_stand_in(root, 0)
  return root


@pytest.fixture
def root(written, tmp_path):
  """A copy to be broken."""
  return shutil.copytree(written, tmp_path / 'sunrgbd')


def _file(root, key, folder):
  (path,) = (root / key / folder).iterdir()
  return path


@pytest.mark.parametrize('depth', ['refined', 'raw'])
def test_the_files_are_read(written, depth):
  source = dataclasses.replace(SOURCE, depth=depth)
  dataset = load(source, str(written), written)
  folder = {'refined': 'depth_bfx', 'raw': 'depth'}[depth]
  for split in dataset.splits.values():
    assert split.label.shape[1:] == (26, 36)
    for row, key in enumerate(split.ids):
      height, width = SIZES[camera(key)]
      label = split.label[row]
      stored = np.load(_file(written, key, 'label'))
      np.testing.assert_array_equal(label[:height, :width], stored)
      assert (label != 255).sum() == height * width
      image = cv2.imread(str(_file(written, key, folder)), cv2.IMREAD_UNCHANGED)
      at = np.ix_(np.arange(24) * height // 24, np.arange(32) * width // 32)
      np.testing.assert_array_equal(split.inputs['depth'][row], image[at])
      rgb = cv2.imread(str(_file(written, key, 'image')))[..., ::-1]
      rgb = cv2.resize(rgb, (32, 24), interpolation=cv2.INTER_LINEAR)
      np.testing.assert_array_equal(split.inputs['rgb'][row], rgb)


def test_depth_is_normalised_in_its_own_unit(written):
  split = SOURCE.load(written)['test']
  stored = split.inputs['depth'][:4].astype(np.float64)
  got = assemble(split, np.arange(4))['inputs']['depth'][..., 0]
  expected = (stored - 19025.14930492213) / 9880.916071806689
  np.testing.assert_allclose(got, expected, atol=2e-6)


def test_every_camera_validates(written):
  splits = dataclasses.replace(SOURCE, valid_fraction=1 / 3).load(written)
  for part, each in (('train', 4), ('valid', 2), ('test', 3)):
    names = [camera(key) for key in splits[part].ids]
    assert {name: names.count(name) for name in CAMERAS} == dict.fromkeys(CAMERAS, each)
  with pytest.raises(ValueError, match="'kv3/a' is of none of the cameras"):
    camera('kv3/a')


def test_training_draws_images_of_one_size(written):
  split = SOURCE.load(written)['train']
  for key in split.ids[:8]:
    inputs, label = split.augment(str(key), np.random.default_rng(0))
    assert inputs['rgb'].shape == (24, 32, 3)
    assert inputs['depth'].shape == label.shape == (24, 32)
    assert label.max() <= 37


def test_labels_of_the_size_of_the_inputs_would_not_be_padded(written):
  """Where that is the greatest size but not the only one, there is one more row."""
  source = dataclasses.replace(SOURCE, height=26, width=36)
  dataset = load(source, str(written), written)
  assert dataset.splits['test'].label.shape[1:] == (27, 36)


def test_lists_may_name_the_folder_of_the_archive(root):
  before = SOURCE.load(root)['test'].ids
  (root / 'SUNRGBD').mkdir()
  for name in CAMERAS:
    (root / name).rename(root / 'SUNRGBD' / name)
  for path in root.glob('*.txt'):
    lines = path.read_text().splitlines()
    path.write_text(''.join(f'SUNRGBD/{line}\n' for line in lines))
  np.testing.assert_array_equal(SOURCE.load(root)['test'].ids, before)


def _edit(name, change):
  def edit(root):
    path = root / name
    lines = change(path.read_text().splitlines())
    path.write_text(''.join(f'{line}\n' for line in lines))

  return edit


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (lambda root: (root / 'test_label.txt').unlink(), r'Missing .*test_label\.txt'),
    (
      lambda root: shutil.rmtree(root / SCENE / 'label'),
      r'Missing .*scene0001/label/label\.npy',
    ),
    (
      _edit('train_depth.txt', lambda lines: lines[:-1]),
      r'train_rgb\.txt 24, train_depth\.txt 23, train_label\.txt 24',
    ),
    (
      _edit('train_depth.txt', lambda lines: [*lines[1:], lines[0]]),
      r'train_\*\.txt, line 1: .* are not of one scene',
    ),
    (
      _edit('test_rgb.txt', lambda lines: ['../x/image/a.jpg', *lines[1:]]),
      r"test_rgb\.txt, line 1: '\.\./x/image/a\.jpg' is no path",
    ),
    (
      _edit('test_rgb.txt', lambda lines: ['/x/image/a.jpg', *lines[1:]]),
      r'test_rgb\.txt, line 1: .* is no path',
    ),
    (
      _edit('test_rgb.txt', lambda lines: ['', *lines[1:]]),
      r"test_rgb\.txt, line 1: '' is no path",
    ),
    (
      lambda root: np.save(_file(root, SCENE, 'label'), np.ones((26, 35), np.uint8)),
      r'label\.npy: 26 by 35 pixels, but .*0001\.jpg has 26 by 36',
    ),
    (
      lambda root: np.save(
        _file(root, SCENE, 'label'), np.full((26, 36), 38, np.uint8)
      ),
      r'scene0001/label/label\.npy: holds the label 38; .* to 37',
    ),
    (
      lambda root: np.save(_file(root, SCENE, 'label'), np.ones((26, 36))),
      r'label\.npy: float64 with 1 channels; a label image is uint8',
    ),
    (
      lambda root: image_files.write(
        _file(root, SCENE, 'image'), np.ones((26, 36), np.uint8)
      ),
      r'0001\.jpg: uint8 with 1 channels; a colour image',
    ),
  ],
)
def test_what_is_wrong_is_named(root, damage, message):
  damage(root)
  with pytest.raises(DataError, match=message):
    load(SOURCE, str(root), root)


def test_a_scene_of_no_known_camera_is_refused(root):
  (root / 'kv2').rename(root / 'kv3')
  for path in root.glob('*.txt'):
    path.write_text(path.read_text().replace('kv2/', 'kv3/'))
  with pytest.raises(DataError, match=r'line 2: kv3/.* a camera of'):
    load(SOURCE, str(root), root)
