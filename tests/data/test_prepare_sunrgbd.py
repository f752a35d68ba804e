"""SUN RGB-D is put together right: labels, splits, links, lists, and bad input."""

import hashlib
import json
import os

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from jdyn import prepare
from jdyn.data import prepare_sunrgbd as sunrgbd
from jdyn.data.dataset import DataError
from jdyn.data.load import load
from jdyn.data.sources.sunrgbd import SUNRGBD

ROOT = '/n/fs/sun3d/data/SUNRGBD/'
# Folder, height and width by example, in the order of the labels.
FOLDERS = {
  'kv2/kinect2data/000002_2014-resize': (5, 7),
  'kv1/NYUdata/NYU0001': (6, 4),
  'xtion/sun3ddata/hv_tea2_2/0000006': (6, 8),
  'realsense/lg/2014_10_21-1311000073': (7, 9),
  'kv1/b3dodata/img_0063': (6, 4),
}
TRAIN, TEST = [*FOLDERS][3:] + [*FOLDERS][:1], [*FOLDERS][1:3]
LARGEST = TRAIN[0]
SIZES = {'train': 3, 'test': 2}


def _label(number):
  rng = np.random.default_rng(number)
  label = rng.integers(0, 38, [*FOLDERS.values()][number], np.uint8)
  label[0, :2] = 0, 37
  return label


def _files(folder):
  """Folders and names of the images; depth is named otherwise than colour."""
  name = folder.rpartition('/')[2]
  return {
    'image': f'{folder}/image/{name}.jpg',
    'depth_bfx': f'{folder}/depth_bfx/{name}_abs.png',
    'depth': f'{folder}/depth/{name}_abs.png',
  }


def _save_image(path, shape, seed):
  rng = np.random.default_rng(seed)
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == '.jpg':
    Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).save(path)
  else:
    Image.fromarray(rng.integers(0, 2**16, shape, np.uint16)).save(path)


def _records():
  fields = ('sequenceName', 'rgbpath', 'depthpath', 'rgbname', 'depthname')
  records = np.zeros((1, len(FOLDERS)), [(field, object) for field in fields])
  for i, folder in enumerate(FOLDERS):
    rgb, _, depth = _files(folder).values()
    records[0, i] = (
      f'SUNRGBD/{folder}',
      ROOT + rgb,
      ROOT + depth,
      rgb.rpartition('/')[2],
      depth.rpartition('/')[2],
    )
  return records


def _write_meta(toolbox, records=None, **change):
  records = _records() if records is None else records
  for field, value in change.items():
    records[field][0, 1] = value
  savemat(toolbox / 'Metadata' / 'SUNRGBDMeta.mat', {'SUNRGBDMeta': records})


def _write_split(toolbox, train=TRAIN, test=TEST):
  cells = {
    # A slash too many, which changes nothing.
    f'all{split}': np.array([f'{ROOT}{path}/' for path in paths], object)[None]
    for split, paths in (('train', train), ('test', test))
  }
  savemat(toolbox / 'traintestSUNRGBD' / 'allsplit.mat', cells)


def _write_labels(toolbox, labels):
  with h5py.File(toolbox / 'Metadata' / 'SUNRGBD2Dseg.mat', 'w') as file:
    refs = []
    for i, label in enumerate(labels):
      # MATLAB's first axis is the last one of HDF5.
      stored = file.create_dataset(f'#refs#/{i}', data=np.transpose(label))
      refs.append([stored.ref])
    file.create_dataset(
      'SUNRGBD2Dseg/seglabel', data=np.array(refs, object), dtype=h5py.ref_dtype
    )


@pytest.fixture
def parts(tmp_path):
  """Both archives, unpacked."""
  images, toolbox = tmp_path / 'SUNRGBD', tmp_path / 'SUNRGBDtoolbox'
  for number, (folder, shape) in enumerate(FOLDERS.items()):
    for kind, path in enumerate(_files(folder).values()):
      _save_image(images / path, shape, 3 * number + kind)
    (images / folder / 'scene.txt').write_text('office')
  for name in ('Metadata', 'traintestSUNRGBD'):
    (toolbox / name).mkdir(parents=True)
  _write_meta(toolbox)
  _write_split(toolbox)
  _write_labels(toolbox, [_label(number) for number in range(len(FOLDERS))])
  return images, toolbox


@pytest.fixture
def built(parts, tmp_path):
  out = tmp_path / 'sun'
  counts = sunrgbd.prepare_sunrgbd(*parts, out)
  assert counts == SIZES | {'linked': 15, 'copied': 0}
  return out


def _content(root):
  return {
    path.relative_to(root): path.read_bytes()
    for path in root.rglob('*')
    if path.is_file()
  }


def test_the_lists(built):
  for split, folders in (('train', TRAIN), ('test', TEST)):
    # In the order of the labels, not of the split.
    files = [_files(folder) for folder in FOLDERS if folder in folders]
    labels = [f'{folder}/label/label.npy' for folder in FOLDERS if folder in folders]
    for kind, paths in (
      ('rgb', [file['image'] for file in files]),
      ('depth', [file['depth_bfx'] for file in files]),
      ('label', labels),
    ):
      text = (built / f'{split}_{kind}.txt').read_text()
      assert text == '\n'.join([*paths, ''])
  manifest = json.loads((built / 'manifest.json').read_text())
  assert manifest['counts'] == SIZES | {'linked': 15, 'copied': 0}
  assert set(manifest['sources']) == {
    'SUNRGBDMeta.mat',
    'SUNRGBD2Dseg.mat',
    'allsplit.mat',
  }


def test_labels_lie_beside_their_image(built):
  for number, folder in enumerate(FOLDERS):
    found = np.load(built / folder / 'label' / 'label.npy')
    np.testing.assert_array_equal(found, _label(number), strict=True)


@pytest.mark.parametrize('depth', ['refined', 'raw'])
def test_what_was_prepared_can_be_loaded(built, depth):
  source = SUNRGBD(
    height=7, width=9, valid_fraction=0.5, class_weights='none', depth=depth
  )
  dataset = load(source, str(built), built)
  assert dataset.origin == 'real'
  splits = dataset.splits
  assert sorted([*splits['train'].ids, *splits['valid'].ids]) == sorted(TRAIN)
  assert sorted(splits['test'].ids) == sorted(TEST)
  # Of the size of the network, so it is as stored.
  (split,) = (s for s in splits.values() if LARGEST in s.ids)
  row = split.ids.tolist().index(LARGEST)
  kind = {'refined': 'depth_bfx', 'raw': 'depth'}[depth]
  want = np.array(Image.open(built / _files(LARGEST)[kind]))
  np.testing.assert_array_equal(split.inputs['depth'][row], want, strict=True)
  # Labels are filled up to the greatest height and width of all.
  height, width = FOLDERS[LARGEST]
  label = _label([*FOLDERS].index(LARGEST))
  np.testing.assert_array_equal(split.label[row][:height, :width], label)


def test_labels_may_be_stored_as_floats(parts, built, tmp_path):
  _write_labels(parts[1], [_label(i).astype(float) for i in range(len(FOLDERS))])
  again = tmp_path / 'again'
  sunrgbd.prepare_sunrgbd(*parts, again)
  for folder in FOLDERS:
    path = f'{folder}/label/label.npy'
    assert (again / path).read_bytes() == (built / path).read_bytes()


def test_images_are_hard_links_and_nothing_else_is_taken(parts, built):
  wanted = {path for folder in FOLDERS for path in _files(folder).values()}
  found = {str(path) for path in _content(built) if len(path.parts) > 1}
  assert found == wanted | {f'{folder}/label/label.npy' for folder in FOLDERS}
  for path in wanted:
    assert (parts[0] / path).samefile(built / path)


def test_images_are_copied_where_links_are_impossible(parts, tmp_path, monkeypatch):
  def refuse(_source, _target):
    raise OSError(18, 'Invalid cross-device link')

  monkeypatch.setattr(os, 'link', refuse)
  out = tmp_path / 'sun'
  counts = sunrgbd.prepare_sunrgbd(*parts, out)
  assert counts == SIZES | {'linked': 0, 'copied': 15}
  for folder in FOLDERS:
    for path in _files(folder).values():
      assert (out / path).read_bytes() == (parts[0] / path).read_bytes()
      assert not (out / path).samefile(parts[0] / path)


def test_the_manifest_hashes_every_image(parts, built):
  found = json.loads((built / 'manifest.json').read_text())['files']
  for folder in FOLDERS:
    for path in _files(folder).values():
      content = (parts[0] / path).read_bytes()
      assert found[str(path)] == hashlib.sha256(content).hexdigest()


def test_one_label_is_in_memory_at_a_time(parts, tmp_path, monkeypatch):
  sizes = []
  original = h5py.Dataset.__getitem__

  def getitem(self, *args, **kwargs):
    part = original(self, *args, **kwargs)
    if part.dtype != object:  # References are few bytes each.
      sizes.append(part.nbytes)
    return part

  monkeypatch.setattr(h5py.Dataset, '__getitem__', getitem)
  written = []

  def progress(_what, done, total):
    assert total == len(FOLDERS)
    written.append(len(sizes) - done)  # Read so far, but not written.

  sunrgbd.prepare_sunrgbd(*parts, tmp_path / 'sun', progress=progress)
  assert sizes == [height * width for height, width in FOLDERS.values()]
  assert written == [0] * len(FOLDERS)


def test_the_published_split_is_asked_for(parts, tmp_path, monkeypatch):
  monkeypatch.setattr(sunrgbd, '_PUBLISHED', {'train': 4, 'test': 1})
  message = r"allsplit.mat: \{'train': 3, 'test': 2\} images; published are"
  _fails(parts, tmp_path, message)
  monkeypatch.setattr(sunrgbd, '_PUBLISHED', SIZES)
  sunrgbd.prepare_sunrgbd(*parts, tmp_path / 'sun')


def test_an_existing_folder_is_kept(parts, tmp_path):
  before = sorted(os.listdir(tmp_path))
  with pytest.raises(DataError, match='exists'):
    sunrgbd.prepare_sunrgbd(*parts, tmp_path)
  assert sorted(os.listdir(tmp_path)) == before


def test_failure_leaves_nothing_but_the_input(parts, tmp_path):
  before = _content(tmp_path)

  def stop(_what, done, _total):
    if done == 3:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    sunrgbd.prepare_sunrgbd(*parts, tmp_path / 'sun', progress=stop)
  assert _content(tmp_path) == before


def _fails(parts, tmp_path, message):
  before = _content(tmp_path)
  with pytest.raises(DataError, match=message):
    sunrgbd.prepare_sunrgbd(*parts, tmp_path / 'sun')
  assert _content(tmp_path) == before


@pytest.mark.parametrize('kind', ['image', 'depth_bfx', 'depth'])
def test_a_missing_image_is_named(parts, tmp_path, kind):
  path = _files(TRAIN[0])[kind]
  (parts[0] / path).unlink()
  _fails(parts, tmp_path, f'SUNRGBD: 1 of 15 images are missing, first {path}')


@pytest.mark.parametrize('kind', ['image', 'depth_bfx', 'depth'])
def test_sizes_must_agree(parts, tmp_path, kind):
  folder = [*FOLDERS][2]
  path = _files(folder)[kind]
  _save_image(parts[0] / path, (8, 6), 0)
  _fails(parts, tmp_path, f'{path}: 8 by 6 pixels, but .*: label 3 is 6 by 8')


def test_a_damaged_image_is_named(parts, tmp_path):
  path = parts[0] / _files(TRAIN[0])['depth']
  path.write_bytes(path.read_bytes()[:-20])
  _fails(parts, tmp_path, f'{path}: ')


def _with_pixel(value):
  label = _label(1).astype(np.asarray(value).dtype)
  label[3, 2] = value
  return label


@pytest.mark.parametrize(
  ('label', 'message'),
  [
    (_with_pixel(np.uint8(38)), 'label 2 is not all whole numbers from 0 to 37'),
    (_with_pixel(np.int16(-1)), 'label 2 is not all'),
    (_with_pixel(np.int16(256)), 'label 2 is not all'),
    (_with_pixel(1.5), 'label 2 is not all'),
    (_with_pixel(np.nan), 'label 2 is not all'),
    (np.zeros((6, 4, 2)), r'refs#/1 has shape \(2, 4, 6\)'),
    (np.zeros((6, 4), complex), 'refs#/1 has type complex128'),
  ],
)
def test_a_damaged_label_is_named(parts, tmp_path, label, message):
  labels = [_label(number) for number in range(len(FOLDERS))]
  _write_labels(parts[1], [labels[0], label, *labels[2:]])
  _fails(parts, tmp_path, f'SUNRGBD2Dseg.mat.*{message}')


def test_labels_must_be_as_many_as_images(parts, tmp_path):
  _write_labels(parts[1], [_label(number) for number in range(4)])
  _fails(parts, tmp_path, r'SUNRGBD2Dseg.mat: labels of 4 images, but .* lists 5')


def test_labels_that_are_no_references(parts, tmp_path):
  with h5py.File(parts[1] / 'Metadata' / 'SUNRGBD2Dseg.mat', 'w') as file:
    file['SUNRGBD2Dseg/seglabel'] = np.zeros((5, 1))
  _fails(parts, tmp_path, 'seglabel holds no references')


def test_labels_that_were_cut(parts, tmp_path):
  path = parts[1] / 'Metadata' / 'SUNRGBD2Dseg.mat'
  whole = path.read_bytes()
  path.write_bytes(whole[:-100])
  _fails(parts, tmp_path, f'seg.mat: cut off after {len(whole) - 100} of {len(whole)}')


@pytest.mark.parametrize(
  ('train', 'test', 'message'),
  [
    (TRAIN, TEST[1:], f'{TEST[0]} is in neither part'),
    (TRAIN, [*TEST, TRAIN[0]], rf"{TRAIN[0]} is in \['train', 'test'\]"),
    (TRAIN, [*TEST, '../../elsewhere'], 'is no path under'),
  ],
)
def test_a_wrong_split_is_named(parts, tmp_path, train, test, message):
  _write_split(parts[1], train, test)
  _fails(parts, tmp_path, f'allsplit.mat: .*{message}')


FIRST = _records()[0, 0]


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'rgbpath': '/home/kv1/b3dodata/img_0063/image/a.jpg'}, 'is no path under'),
    ({'rgbpath': f'{ROOT}../../../../etc/passwd'}, 'is no path under'),
    ({'rgbpath': 7}, 'is no path under'),
    ({'rgbpath': FIRST['rgbpath']}, 'a folder is listed twice'),
    ({'rgbname': '../../../../../../etc/passwd'}, 'names no file'),
    ({'depthname': '..'}, 'names no file'),
    ({'depthname': 'a\nb.png'}, 'names no file'),
    ({'depthname': []}, 'names no file'),
  ],
)
def test_damaged_metadata_are_named(parts, tmp_path, change, message):
  _write_meta(parts[1], **change)
  _fails(parts, tmp_path, f'SUNRGBDMeta.mat: .*{message}')


def test_metadata_without_a_field(parts, tmp_path):
  fields = ['sequenceName', 'rgbpath', 'rgbname']
  _write_meta(parts[1], _records()[fields].astype([(f, object) for f in fields]))
  _fails(parts, tmp_path, r"SUNRGBDMeta.mat: SUNRGBDMeta has no \['depthname'\]")


def test_a_toolbox_without_a_file(parts, tmp_path):
  (parts[1] / 'traintestSUNRGBD' / 'allsplit.mat').unlink()
  _fails(parts, tmp_path, 'Missing .*allsplit.mat. Expected layout:')


def test_the_command(parts, built, tmp_path, capsys):
  flags = ['--images', str(parts[0]), '--toolbox', str(parts[1])]
  out = tmp_path / 'out'
  prepare.main(['sunrgbd', *flags, '--out', str(out)])
  assert _content(out) == _content(built)
  told = capsys.readouterr().err
  assert 'images 5/5' in told
  assert '3 training and 2 test images; 15 files linked, 0 copied' in told
  with pytest.raises(SystemExit) as stop:
    prepare.main(['sunrgbd', *flags, '--out', str(out)])
  assert stop.value.code == 1
  assert 'error: ' in capsys.readouterr().err
