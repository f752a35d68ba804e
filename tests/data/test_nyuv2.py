"""NYUv2 in the layout of ESANet: what is read, how it is split, what is refused."""

import dataclasses
import shutil

import cv2
import numpy as np
import pytest

from jdyn.data import image_files
from jdyn.data.augment import Augment, Example
from jdyn.data.dataset import DataError
from jdyn.data.load import load
from jdyn.data.pipeline import assemble
from jdyn.data.sources.nyuv2 import CLASSES, NYUv2

SOURCE = NYUv2(height=24, width=32)


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  root = tmp_path_factory.mktemp('nyuv2')
  SOURCE.write_stand_in(root, 0)
  return root


@pytest.fixture
def root(written, tmp_path):
  """A copy to be broken."""
  return shutil.copytree(written, tmp_path / 'nyuv2')


def _stored(root, part, folder, key):
  image = cv2.imread(str(root / part / folder / f'{key}.png'), cv2.IMREAD_UNCHANGED)
  return image[..., ::-1] if image.ndim == 3 else image


@pytest.mark.parametrize('depth', ['refined', 'raw'])
@pytest.mark.parametrize('num_classes', [40, 13])
def test_the_files_are_read(written, depth, num_classes):
  source = dataclasses.replace(SOURCE, depth=depth, num_classes=num_classes)
  dataset = load(source, str(written), written)
  assert dataset.spec.class_names == CLASSES[num_classes]
  assert (
    len(set(CLASSES[num_classes])) == len(dataset.spec.class_weights) == num_classes
  )
  folders = {'refined': 'depth', 'raw': 'depth_raw'}
  for part, split in dataset.splits.items():
    part = part.replace('valid', 'train')
    for row, key in enumerate(split.ids):
      for values, folder in (
        (split.inputs['rgb'], 'rgb'),
        (split.inputs['depth'], folders[depth]),
        (split.label, f'labels_{num_classes}'),
      ):
        np.testing.assert_array_equal(values[row], _stored(written, part, folder, key))


def test_holes_are_zero_only_where_depth_is_raw(written):
  for depth in ('refined', 'raw'):
    source = dataclasses.replace(SOURCE, depth=depth)
    split = source.load(written)['test']
    stored = split.inputs['depth'][:]
    value = assemble(split, np.arange(len(split)))['inputs']['depth'][..., 0]
    assert (stored == 0).any() == (depth == 'raw')
    expected = (stored.astype(np.float64) - 2841.94941272766) / 1417.2594281672277
    if depth == 'raw':
      expected[stored == 0] = 0
    np.testing.assert_allclose(value, expected, atol=2e-6)


def test_validation_is_a_share_of_the_training_images(written):
  lists = {
    part: (written / f'{part}.txt').read_text().split() for part in ('train', 'test')
  }
  splits = dataclasses.replace(SOURCE, valid_fraction=0.25).load(written)
  ids = {part: split.ids.tolist() for part, split in splits.items()}
  assert ids['test'] == lists['test']
  assert sorted(ids['train'] + ids['valid']) == lists['train']
  assert len(ids['valid']) == len(lists['train']) / 4
  other = dataclasses.replace(SOURCE, valid_fraction=0.25, split_seed=1).load(written)
  assert other['valid'].ids.tolist() != ids['valid']
  assert [splits[part].augment is None for part in ids] == [False, True, True]


def test_inputs_are_resized_and_labels_are_not(written):
  source = dataclasses.replace(SOURCE, height=12, width=20)
  split = source.load(written)['test']
  batch = assemble(split, np.array([3, 0]))
  assert batch['inputs']['rgb'].shape == (2, 12, 20, 3)
  assert batch['inputs']['depth'].shape == (2, 12, 20, 1)
  stored = _stored(written, 'test', 'depth', split.ids[3])
  nearest = stored[np.ix_(np.arange(12) * 2, np.arange(20) * 32 // 20)]
  np.testing.assert_array_equal(split.inputs['depth'][3], nearest)
  label = _stored(written, 'test', 'labels_40', split.ids[3])
  np.testing.assert_array_equal(batch['label'][0], label)
  spec = source.spec(written)
  assert spec.modalities['depth'].shape == (12, 20, 1)
  # Weights count the labels as they are stored.
  assert spec.class_weights == SOURCE.spec(written).class_weights


def test_training_draws_what_augment_makes_of_the_files(written):
  source = dataclasses.replace(SOURCE, height=16, width=20, scale=(1.0, 1.2))
  split = source.load(written)['train']
  for key in split.ids[:4]:
    inputs, label = split.augment(str(key), np.random.default_rng(5))
    rgb, depth, stored = (
      _stored(written, 'train', folder, key) for folder in ('rgb', 'depth', 'labels_40')
    )
    example, rng = Example(rgb, depth, stored), np.random.default_rng(5)
    expected = Augment(16, 20, (1.0, 1.2), 'fixed')(example, rng)
    assert sorted(inputs) == sorted(split.inputs)
    got = Example(inputs['rgb'], inputs['depth'], label)
    for value, wanted in zip(got, expected, strict=True):
      assert value.shape[:2] == (16, 20)
      np.testing.assert_array_equal(value, wanted)


def test_class_weights_are_those_of_the_images_that_are_trained_on(written):
  label = SOURCE.load(written)['train'].label[:]
  counts = np.array([np.bincount(image.ravel(), minlength=41)[1:] for image in label])
  frequency = counts.sum(0) / (label[0].size * (counts > 0).sum(0))
  weights = SOURCE.spec(written).class_weights
  np.testing.assert_allclose(weights, np.median(frequency) / frequency)
  weigh = dataclasses.replace(SOURCE, class_weights='logarithmic').spec(written)
  share = counts.sum(0) / counts.sum()
  np.testing.assert_allclose(weigh.class_weights, 1 / np.log(1.02 + share))
  assert (
    dataclasses.replace(SOURCE, class_weights='none').spec(written).class_weights == ()
  )


def test_no_pixel_is_read_before_it_is_asked_for(written, monkeypatch):
  decoded = []
  decode = image_files._decoded
  monkeypatch.setattr(
    image_files, '_decoded', lambda *args: decoded.append(args) or decode(*args)
  )
  splits = SOURCE.load(written)
  assert not decoded
  splits['test'].inputs['rgb'][np.array([1, 2])]
  assert len(decoded) == 2


def _edit(name, change):
  def edit(root):
    path = root / name
    path.write_text(change(path.read_text()))

  return edit


def _put(name, shape, dtype):
  return lambda root: image_files.write(root / name, np.ones(shape, dtype))


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (lambda root: (root / 'test.txt').unlink(), r'Missing .*test\.txt'),
    (
      lambda root: (root / 'train/depth/0003.png').unlink(),
      r'Missing .*train/depth/0003\.png\. Expected layout',
    ),
    (
      lambda root: shutil.rmtree(root / 'test/labels_40'),
      r'Missing .*test/labels_40/0025\.png.* and 4 more',
    ),
    (
      _edit('train.txt', lambda text: text[:20]),
      r'train\.txt: lists 4 images, but not 0005 and others \(20\)',
    ),
    (_edit('test.txt', lambda text: text[:-2]), r"line 12: '003' is no number of four"),
    (_edit('test.txt', lambda text: '../../a\n' + text), r"line 1: '\.\./\.\./a'"),
    (
      _edit('test.txt', lambda text: text + '0025\n'),
      r'test\.txt: the id 0025 occurs more than once',
    ),
    (
      _put('test/depth/0026.png', (24, 30), np.uint16),
      r'test/depth/0026\.png: 24 by 30 pixels, but .*0026\.png has 24 by 32',
    ),
    (
      _put('test/depth/0026.png', (24, 32), np.uint8),
      r'0026\.png: uint8 with 1 channels',
    ),
    (_put('train/rgb/0002.png', (24, 32), np.uint8), r'rgb/0002\.png: .* colour image'),
    (
      lambda root: image_files.write(
        root / 'train/labels_40/0001.png', np.full((24, 32), 41, np.uint8)
      ),
      r'labels_40/0001\.png: holds the label 41; .* to 40',
    ),
  ],
)
def test_what_is_wrong_is_named(root, damage, message):
  damage(root)
  with pytest.raises(DataError, match=message):
    load(SOURCE, str(root), root)


def test_a_class_that_training_lacks_has_no_weight(root):
  for path in (root / 'train/labels_40').glob('*.png'):
    label = image_files.read(path, image_files.LABEL)
    image_files.write(path, np.where(label == 7, 0, label))
  with pytest.raises(DataError, match=r'labels \[7\], so they have no median'):
    load(SOURCE, str(root), root)
  load(dataclasses.replace(SOURCE, class_weights='logarithmic'), str(root), root)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'num_classes': 37}, r'num_classes=37; expected one of \[13, 40\]'),
    ({'depth': 'filled'}, "depth='filled'"),
    ({'class_weights': 'linear'}, "class_weights='linear'"),
    ({'hsv': 'x'}, "hsv='x'"),
    ({'width': 0}, 'width=0'),
  ],
)
def test_options_that_do_not_exist_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    NYUv2(**options)


def test_the_stand_in_has_easy_images_and_classes_that_only_depth_tells(written):
  """Classes in pairs: two colours at one depth, or one colour at two depths."""
  splits = SOURCE.load(written)
  rgb, depth = (
    np.concatenate([split.inputs[name][:] for split in splits.values()])
    for name in ('rgb', 'depth')
  )
  label = np.concatenate([split.label[:] for split in splits.values()])
  color = np.array([rgb[label == c].mean(0) for c in range(1, 41)])
  away = np.array([depth[label == c].mean() for c in range(1, 41)])
  twins = np.abs(color[0::2] - color[1::2]).max(1) < 12
  assert twins.tolist() == [False, True] * 10
  assert (away[1::2] - away[0::2] > 2000).tolist() == twins.tolist()
  deep = np.isin(label, np.flatnonzero(np.repeat(twins, 2)) + 1).any(axis=(1, 2))
  assert 0.5 < deep.mean() < 0.7
