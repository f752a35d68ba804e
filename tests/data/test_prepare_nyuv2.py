"""NYU Depth v2 is written out right: axes, units, classes, splits, and bad input."""

import json
import os
import struct
import subprocess
import sys
import zlib

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from jdyn import prepare
from jdyn.data import prepare_nyuv2 as nyuv2
from jdyn.data.dataset import DataError
from jdyn.data.load import load
from jdyn.data.sources.nyuv2 import NYUv2

N, H, W = 7, 6, 8
TRAIN, TEST = [7, 2, 3, 5], [1, 4, 6]
MAP_CLASS = np.random.default_rng(1).integers(1, 41, 894)
# What the file of 13 classes says of some of the 40.
GROUPS = {
  1: 'wall',
  2: 'floor',
  3: 'furniture',
  4: 'bed',
  5: 'chair',
  6: 'sofa',
  7: 'table',
  8: 'wall',
  9: 'window',
  11: 'picture',
  19: 'objects',
  20: 'floor',
  22: 'ceiling',
  23: 'books',
  25: 'tv',
  31: 'objects',
  39: 'furniture',
  40: 'objects',
}
GROUP_NAMES = (
  *('bed', 'books', 'ceiling', 'chair', 'floor', 'furniture', 'objects'),
  *('picture', 'sofa', 'table', 'tv', 'wall', 'window'),
)


def _scenes():
  """The arrays as images: what must come out."""
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 895, (N, H, W), np.uint16)
  labels[:, 0, :2] = 0, 894
  return {
    'rgb': rng.integers(0, 256, (N, H, W, 3), np.uint8),
    'depth': rng.integers(700, 10000, (N, H, W), np.uint16),
    'depth_raw': rng.integers(0, 10000, (N, H, W), np.uint16),
    'labels': labels,
  }


def _metres(millimetres):
  return ((millimetres + 0.7) / 1000).astype(np.float32)  # Rounding would add one.


def _arrays(scenes):
  """The arrays as MATLAB stores them: its axes `(H, W, C, N)` backwards."""
  return {
    'images': np.einsum('nhwc->ncwh', scenes['rgb']),
    'depths': np.einsum('nhw->nwh', _metres(scenes['depth'])),
    'rawDepths': np.einsum('nhw->nwh', _metres(scenes['depth_raw'])),
    'labels': np.einsum('nhw->nwh', scenes['labels']),
  }


def _write_mat(path, **change):
  arrays = _arrays(_scenes()) | {'accelData': np.zeros((4, N))} | change
  with h5py.File(path, 'w', userblock_size=512) as file:
    for name, array in arrays.items():
      if array is not None:
        file.create_dataset(name, data=array, chunks=True, compression='gzip')


def _write_splits(path, train=TRAIN, test=TEST):
  columns = {'trainNdxs': train, 'testNdxs': test}
  # Indices are uint16 in the published file, floats where MATLAB wrote them itself.
  dtypes = {'trainNdxs': np.uint16, 'testNdxs': np.float64}
  savemat(path, {k: np.array(v, dtypes[k])[:, None] for k, v in columns.items()})


def _write_groups(path, groups):
  savemat(path, {'classMapping13': {'labels13': groups, 'classNames': ['a', 'b']}})


@pytest.fixture
def parts(tmp_path):
  """The three files that the user fetches."""
  mat, splits, classes = (
    tmp_path / f'{name}.mat' for name in ('labeled', 'splits', 'classes')
  )
  _write_mat(mat)
  _write_splits(splits)
  savemat(classes, {'mapClass': MAP_CLASS[None].astype(np.uint8)})
  return mat, splits, classes


@pytest.fixture
def built(parts, tmp_path):
  out = tmp_path / 'nyuv2'
  assert nyuv2.prepare_nyuv2(*parts, out) == {'train': 4, 'test': 3}
  return out


def _image(out, folder, number):
  split = 'train' if number in TRAIN else 'test'
  return np.array(Image.open(out / split / folder / f'{number:04d}.png'))


def test_the_layout(built):
  assert sorted(os.listdir(built)) == [
    'manifest.json',
    'test',
    'test.txt',
    'train',
    'train.txt',
  ]
  for split, numbers in (('train', TRAIN), ('test', TEST)):
    lines = [f'{number:04d}' for number in numbers]
    assert (built / f'{split}.txt').read_text() == '\n'.join([*lines, ''])
    assert sorted(os.listdir(built / split)) == sorted(
      ['rgb', 'depth', 'depth_raw', 'labels_40', 'labels_13']
    )
    for folder in (built / split).iterdir():
      assert sorted(os.listdir(folder)) == sorted(f'{line}.png' for line in lines)
  manifest = json.loads((built / 'manifest.json').read_text())
  assert manifest['counts'] == {'train': 4, 'test': 3}
  assert set(manifest['sources']) == {'labeled.mat', 'splits.mat', 'classes.mat'}


@pytest.mark.parametrize('folder', ['rgb', 'depth', 'depth_raw'])
def test_pixels_are_those_of_the_file(built, folder):
  scenes = _scenes()[folder]
  for number in TRAIN + TEST:
    found = _image(built, folder, number)
    np.testing.assert_array_equal(found, scenes[number - 1], strict=True)


def test_labels_are_mapped_twice(built):
  for number in TRAIN + TEST:
    objects = _scenes()['labels'][number - 1]
    found_40, found_13 = (_image(built, f'labels_{n}', number) for n in (40, 13))
    assert found_40.shape == found_13.shape == (H, W)
    assert found_40.dtype == found_13.dtype == np.uint8
    for row in range(H):
      for column in range(W):
        label = objects[row, column]
        want = MAP_CLASS[label - 1] if label else 0
        assert found_40[row, column] == want
        if want in GROUPS:
          assert GROUP_NAMES[found_13[row, column] - 1] == GROUPS[want]
        assert (found_13[row, column] == 0) == (want == 0)


def test_what_was_prepared_can_be_loaded(built):
  source = NYUv2(height=H, width=W, valid_fraction=0.25, class_weights='none')
  dataset = load(source, str(built), built)
  assert dataset.origin == 'real'
  scenes, numbers = _scenes(), []
  for split in dataset.splits.values():
    for row, key in enumerate(split.ids):
      numbers.append(int(key))
      for name in ('rgb', 'depth'):
        found = split.inputs[name][row]
        np.testing.assert_array_equal(found, scenes[name][numbers[-1] - 1], strict=True)
  assert sorted(numbers) == sorted(TRAIN + TEST)
  assert sorted(map(int, dataset.splits['test'].ids)) == sorted(TEST)


def test_the_built_in_table_of_13_classes():
  table = nyuv2.read_groups(None)
  assert {c: GROUP_NAMES[table[c] - 1] for c in GROUPS} == GROUPS
  # How many of the 40 each of the 13 has, and void.
  assert np.bincount(table).tolist() == [1, 1, 1, 1, 1, 2, 8, 16, 1, 1, 2, 1, 2, 3]


def test_a_file_of_13_classes_is_used(parts, tmp_path):
  groups = np.arange(40) % 13 + 1
  _write_groups(tmp_path / 'thirteen.mat', groups)
  out = tmp_path / 'nyuv2'
  nyuv2.prepare_nyuv2(*parts, out, classes13=tmp_path / 'thirteen.mat')
  found_40, found_13 = _image(out, 'labels_40', 1), _image(out, 'labels_13', 1)
  want = np.where(found_40 == 0, 0, (found_40.astype(int) - 1) % 13 + 1)
  np.testing.assert_array_equal(found_13, want)
  manifest = json.loads((out / 'manifest.json').read_text())
  assert 'thirteen.mat' in manifest['sources']


@pytest.mark.parametrize(
  ('metres', 'millimetres'),
  [
    (np.float32(0), 0),
    (np.float32(1.2349), 1234),
    (np.float32(0.009), 9),  # In double precision, 0.00899999961 m.
    (np.float64(np.float32(0.009)), 8),
    (np.float32(65.535), 65535),
  ],
)
def test_depth_is_truncated_in_the_precision_of_the_file(metres, millimetres):
  found = nyuv2.to_millimetres(np.full((1, 1), metres), 'file')
  np.testing.assert_array_equal(found, np.full((1, 1), millimetres, 'u2'), strict=True)


def test_one_image_is_in_memory_at_a_time(parts, tmp_path, monkeypatch):
  sizes = []
  original = h5py.Dataset.__getitem__

  def getitem(self, *args, **kwargs):
    part = original(self, *args, **kwargs)
    sizes.append(np.asarray(part).nbytes)
    return part

  monkeypatch.setattr(h5py.Dataset, '__getitem__', getitem)
  monkeypatch.setattr(h5py.Dataset, '__array__', None)
  nyuv2.prepare_nyuv2(*parts, tmp_path / 'nyuv2')
  assert len(sizes) == 4 * N
  assert max(sizes) == H * W * 4


def test_the_published_split_is_asked_for(tmp_path, monkeypatch):
  path = tmp_path / 'splits.mat'
  count = nyuv2._NUM_PUBLISHED
  train, test = [*range(1, count + 1, 2)], [*range(2, count + 1, 2)]
  _write_splits(path, train, test)
  with pytest.raises(DataError, match=r'train of 725 .* published one of 795 .*953ed'):
    nyuv2.read_splits(path, count)
  parts = {'train': train, 'test': test}
  crc = {s: zlib.crc32(struct.pack(f'<{len(p)}H', *p)) for s, p in parts.items()}
  published = {split: (len(part), crc[split]) for split, part in parts.items()}
  monkeypatch.setattr(nyuv2, '_PUBLISHED', published)
  found = nyuv2.read_splits(path, count)
  assert {split: part.tolist() for split, part in found.items()} == parts
  _write_splits(path, train, test[::-1])
  with pytest.raises(DataError, match='test of 724'):
    nyuv2.read_splits(path, count)


def test_an_existing_folder_is_kept(parts, tmp_path):
  before = sorted(os.listdir(tmp_path))
  with pytest.raises(DataError, match='exists'):
    nyuv2.prepare_nyuv2(*parts, tmp_path)
  assert sorted(os.listdir(tmp_path)) == before


def test_failure_leaves_nothing(parts, tmp_path):
  before = sorted(os.listdir(tmp_path))

  def stop(_what, done, _total):
    if done == 3:
      assert len(os.listdir(tmp_path)) == len(before) + 1
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    nyuv2.prepare_nyuv2(*parts, tmp_path / 'nyuv2', progress=stop)
  assert sorted(os.listdir(tmp_path)) == before


def _changed(name, value):
  array = _arrays(_scenes())[name]
  array[4, 2, 3] = value
  return {name: array}


def _without_last(name):
  return {name: _arrays(_scenes())[name][:-1]}


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'depths': None}, 'no dataset depths'),
    ({'labels': None}, 'no dataset labels'),
    ({'images': np.zeros((N, W, H), 'u1')}, 'images has shape'),
    ({'images': np.zeros((N, 3, W, H), 'u2')}, 'images has .*uint16'),
    ({'images': np.zeros((N, 3, W, H), 'f4')}, 'images has type float32'),
    (_without_last('depths'), r'depths has shape \(6, 8, 6\) instead of \(7, 8, 6\)'),
    (_without_last('rawDepths'), 'rawDepths has shape'),
    (_without_last('labels'), 'labels has shape'),
    ({'labels': np.zeros((N, W, H))}, 'labels has type float64'),
    (_changed('labels', 895), 'image 5 has the label 895; there are 894'),
    (_changed('depths', np.nan), 'image 5: depths is not all within'),
    (_changed('depths', -0.001), 'image 5: depths is not all within'),
    (_changed('rawDepths', 65.536), 'image 5: rawDepths is not all within'),
  ],
)
def test_a_damaged_mat_is_named(parts, tmp_path, change, message):
  _write_mat(parts[0], **change)
  _fails(parts, tmp_path, f'labeled.mat.*{message}')


def _fails(parts, tmp_path, message, **options):
  before = sorted(os.listdir(tmp_path))
  with pytest.raises(DataError, match=message):
    nyuv2.prepare_nyuv2(*parts, tmp_path / 'nyuv2', **options)
  assert sorted(os.listdir(tmp_path)) == before


def test_a_mat_that_was_cut(parts, tmp_path):
  whole = parts[0].read_bytes()
  cut = len(whole) * 2 // 3
  parts[0].write_bytes(whole[:cut])
  message = f'labeled.mat: cut off after {cut} of {len(whole)} bytes'
  _fails(parts, tmp_path, message)


def test_a_mat_with_a_flipped_byte(parts, tmp_path):
  _write_mat(parts[0], images=np.zeros((N, 3, W, H), np.uint8))
  content = bytearray(parts[0].read_bytes())
  with h5py.File(parts[0]) as file:
    chunk = file['images'].id.get_chunk_info(0)
  content[chunk.byte_offset] ^= 0xFF
  parts[0].write_bytes(content)
  _fails(parts, tmp_path, 'labeled.mat: not readable as HDF5')


@pytest.mark.parametrize(
  ('train', 'test', 'message'),
  [
    (TRAIN, [1, 4, 6, 2], 'image 2 is listed 2 times'),
    ([*TRAIN, 5], TEST, 'image 5 is listed 2 times'),
    (TRAIN, [1, 4], 'image 6 is listed 0 times'),
    (TRAIN, [1, 4, 6, 8], 'lists images 1 to 8 of 7'),
    ([0, *TRAIN], TEST, 'lists images 0 to 7 of 7'),
    (TRAIN, [1, 4, 5.5], 'testNdxs is not all whole numbers'),
    (TRAIN, [1, 4, np.inf], 'testNdxs is not all whole numbers'),
  ],
)
def test_a_wrong_split_is_named(parts, tmp_path, train, test, message):
  _write_splits(parts[1], train, test)
  _fails(parts, tmp_path, f'splits.mat: {message}')


@pytest.mark.parametrize(
  ('classes', 'message'),
  [
    (MAP_CLASS[:-1], 'has 893 numbers from 1 to 40; expected 894'),
    (np.where(MAP_CLASS == 40, 41, MAP_CLASS), '.* 894 .* from 1 to 41; expected 894'),
    (np.where(MAP_CLASS == 1, 0, MAP_CLASS), '.* 894 .* from 0 to 40; expected 894'),
    ('words', 'is not all whole numbers'),
  ],
)
def test_wrong_classes_are_named(parts, tmp_path, classes, message):
  savemat(parts[2], {'mapClass': classes})
  _fails(parts, tmp_path, f'classes.mat: mapClass {message}')


@pytest.mark.parametrize(
  ('variables', 'message'),
  [
    ({'classMapping13': {'other': [1]}}, 'labels13 is not there'),
    ({'classMapping13': [1, 2]}, 'labels13 is not there'),
    ({'classMapping13': 'words'}, 'labels13 is not there'),
    ({'classMapping13': np.zeros(2, [('labels13', object)])}, 'labels13 is .*not once'),
    ({'classMapping13': {'labels13': np.arange(1, 41)}}, 'labels13 has 40 numbers'),
    ({'labels13': [1]}, 'no variable classMapping13'),
  ],
)
def test_wrong_groups_are_named(parts, tmp_path, variables, message):
  path = tmp_path / 'thirteen.mat'
  savemat(path, variables)
  _fails(parts, tmp_path, f'thirteen.mat: .*{message}', classes13=path)


@pytest.mark.parametrize('part', [0, 1, 2])
@pytest.mark.parametrize('content', [None, b'', b'<html>404</html>' * 40])
def test_what_is_no_mat_is_named(parts, tmp_path, part, content):
  parts[part].unlink()
  if content is not None:
    parts[part].write_bytes(content)
  _fails(parts, tmp_path, f'{parts[part].name}: not readable as')


@pytest.mark.parametrize('cut', [100, 200, 400])
def test_small_files_that_were_cut(parts, tmp_path, cut):
  parts[2].write_bytes(parts[2].read_bytes()[:cut])
  _fails(parts, tmp_path, 'classes.mat: not readable as a MATLAB file')


def test_hdf5_where_an_older_version_is_expected(parts, tmp_path):
  header = b'MATLAB 7.3 MAT-file'.ljust(124) + b'\x00\x02IM'
  parts[1].write_bytes(header.ljust(512, b'\0') + parts[0].read_bytes()[512:])
  _fails(
    parts, tmp_path, 'splits.mat: not readable as a MATLAB file of versions 5 to 7'
  )


def test_the_command(parts, built, tmp_path, capsys):
  mat, splits, classes = map(str, parts)
  flags = ['--mat', mat, '--splits', splits, '--classes', classes]
  out = tmp_path / 'out'
  prepare.main(['nyuv2', *flags, '--out', str(out)])
  for path in built.rglob('*.*'):
    assert (out / path.relative_to(built)).read_bytes() == path.read_bytes()
  told = capsys.readouterr().err
  assert 'images 7/7' in told
  assert '4 training and 3 test images' in told
  with pytest.raises(SystemExit) as stop:
    prepare.main(['nyuv2', *flags, '--out', str(out)])
  assert stop.value.code == 1
  assert 'error: ' in capsys.readouterr().err


@pytest.mark.parametrize('command', ['nyuv2', 'sunrgbd'])
def test_help_imports_nothing_heavy(command):
  code = (
    'import sys; from jdyn import prepare\n'
    f'try: prepare.main(["{command}", "--help"])\n'
    'except SystemExit: print("numpy" in sys.modules, "jax" in sys.modules)'
  )
  run = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert run.stdout.endswith('False False\n')
