"""MM-IMDB's HDF5 file: as it is written, and everything that can be wrong with it."""

import contextlib
import json
import logging

import h5py
import numpy as np
import pytest

from jdyn.data.dataset import DataError
from jdyn.data.load import load
from jdyn.data.sources import mmimdb
from jdyn.data.sources.mmimdb import MMIMDB

SIZE = 12
BORDERS = {'train': (0, 6), 'dev': (6, 8), 'test': (8, 12)}


def _fuel(borders, sources=('features', 'vgg_features', 'genres'), reference=None):
  """Fuel's split array, in the types of `H5PYDataset.create_split_array`."""
  dtype = np.dtype(
    [
      ('split', 'S5'),
      ('source', 'S12'),
      ('start', np.int64),
      ('stop', np.int64),
      ('indices', h5py.special_dtype(ref=h5py.Reference)),
      ('available', bool),
      ('comment', 'S1'),
    ]
  )
  rows = [
    (split, source, *border, reference or h5py.Reference(), True, '.')
    for split, border in borders.items()
    for source in sources
  ]
  return np.array(rows, dtype)


def _write(folder, size=SIZE):
  """A file of the real layout, with the datasets that are not read too."""
  rng = np.random.default_rng(0)
  folder.mkdir(exist_ok=True)
  with h5py.File(folder / 'multimodal_imdb.hdf5', 'w') as file:
    file['features'] = rng.random((size, mmimdb._TEXT), np.float32)
    file['vgg_features'] = rng.random((size, mmimdb._IMAGE), np.float32)
    file['genres'] = rng.integers(0, 2, (size, 23)).astype(np.int32)
    file['imdb_ids'] = np.array([f'{row:07d}' for row in range(size)], 'S7')
    file['images'] = rng.integers(-128, 128, (size, 3, 2, 2)).astype(np.int32)
    file['genres'].attrs['target_names'] = json.dumps([f'genre {n}' for n in range(23)])
    file.attrs['split'] = _fuel(BORDERS)
  return folder


@pytest.fixture
def root(tmp_path):
  return _write(tmp_path / 'mmimdb')


def _edit(root):
  return h5py.File(root / 'multimodal_imdb.hdf5', 'r+')


def _replace(root, name, values):
  with _edit(root) as file:
    attributes = dict(file[name].attrs)
    del file[name]
    file[name] = values
    file[name].attrs.update(attributes)


def test_the_split_is_read_from_the_file(root):
  with _edit(root) as file:
    text, image = file['features'][...], file['vgg_features'][...]
    genres = file['genres'][...]
  dataset = load(MMIMDB(), str(root), root)
  assert dataset.spec.class_names[3] == 'genre 3'
  assert dataset.spec.num_outputs == 23
  for name, theirs in (('train', 'train'), ('valid', 'dev'), ('test', 'test')):
    rows = slice(*BORDERS[theirs])
    split = dataset.splits[name]
    np.testing.assert_array_equal(split.inputs['text'], text[rows])
    np.testing.assert_array_equal(split.inputs['image'], image[rows])
    np.testing.assert_array_equal(split.label, genres[rows])
    assert split.ids.tolist() == [f'{row:07d}' for row in range(SIZE)[rows]]


def test_splits_share_one_copy_of_the_images(root):
  splits = MMIMDB().load(root)
  bases = {id(split.inputs['image'].base) for split in splits.values()}
  assert len(bases) == 1


def test_names_may_be_bytes_and_ids_text(root):
  names = [f'g{n}' for n in range(23)]
  ids = [f'tt{row}é' for row in range(SIZE)]
  with _edit(root) as file:
    file['genres'].attrs['target_names'] = np.bytes_(json.dumps(names))
    del file['imdb_ids']
    file.create_dataset('imdb_ids', data=ids, dtype=h5py.string_dtype())
  dataset = load(MMIMDB(), str(root), root)
  assert dataset.spec.class_names == tuple(names)
  assert dataset.splits['valid'].ids.tolist() == ids[6:8]


def test_the_published_rows_hold_for_the_published_size(tmp_path, monkeypatch):
  monkeypatch.setattr(mmimdb, '_IMAGE', 2)
  monkeypatch.setattr(mmimdb, '_TEXT', 2)
  root = _write(tmp_path / 'full', size=25959)
  with _edit(root) as file:
    del file.attrs['split']
  splits = MMIMDB().load(root)
  assert [len(splits[name]) for name in splits] == [15552, 2608, 7799]
  assert [splits[name].ids[0] for name in splits] == ['0000000', '0015552', '0018160']


@pytest.mark.parametrize(
  ('nan_rows', 'sizes', 'row'), [('zero', (6, 2, 4), 3), ('drop', (5, 2, 3), None)]
)
def test_films_without_text(root, nan_rows, sizes, row, caplog):
  with _edit(root) as file:
    file['features'][3] = np.nan
    file['features'][9] = np.nan
    expected = file['features'][...]
  with caplog.at_level(logging.WARNING):
    dataset = load(MMIMDB(nan_rows=nan_rows), str(root), root)
  assert 'features of 2 films are all NaN' in caplog.text
  assert 'first is 0000003' in caplog.text
  train, valid, test = (dataset.splits[name] for name in ('train', 'valid', 'test'))
  assert (len(train), len(valid), len(test)) == sizes
  if row is not None:
    assert not train.inputs['text'][row].any()
  np.testing.assert_array_equal(train.inputs['text'][-1], expected[5])
  np.testing.assert_array_equal(test.inputs['text'][-1], expected[11])
  assert ('0000009' in test.ids) == (nan_rows == 'zero')


def test_films_without_text_can_be_refused(root):
  MMIMDB(nan_rows='error').load(root)
  with _edit(root) as file:
    file['features'][3] = np.nan
  with pytest.raises(DataError, match=r"1 films .* 0000003.*nan_rows='zero' or 'drop'"):
    MMIMDB(nan_rows='error').load(root)
  with pytest.raises(ValueError, match="nan_rows='keep'"):
    MMIMDB(nan_rows='keep')


def test_a_single_nan_is_no_film_without_text(root):
  with _edit(root) as file:
    file['features'][7, 5] = np.nan
  with pytest.raises(DataError, match=r'split valid, modality text: .* 0000007'):
    load(MMIMDB(), str(root), root)


@pytest.mark.parametrize(
  ('name', 'values', 'message'),
  [
    ('features', np.zeros((SIZE, 299), 'f4'), r'features has shape \(12, 299\).*300'),
    ('features', np.zeros((SIZE, 300), 'i4'), 'features has type int32'),
    ('vgg_features', np.zeros((11, 4096), 'f4'), r'instead of \(12, 4096\)'),
    ('vgg_features', np.zeros((SIZE, 4096), 'S3'), r'vgg_features has type \|S3'),
    ('genres', np.zeros((SIZE, 22), 'i4'), r'genres has shape .* \(N, 23\)'),
    ('genres', np.full((SIZE, 23), 2, 'i4'), '6 of 6 labels are out of range'),
    ('genres', np.zeros((SIZE, 23), 'f4'), 'genres has type float32'),
    ('imdb_ids', np.zeros(SIZE, 'S7'), 'occurs more than once'),
    ('imdb_ids', np.arange(SIZE), 'imdb_ids has type int64'),
    ('imdb_ids', np.zeros((SIZE, 1), 'S7'), r'imdb_ids has shape .* \(12\)'),
  ],
)
def test_a_wrong_dataset_is_named(root, name, values, message):
  _replace(root, name, values)
  with pytest.raises(DataError, match=message):
    load(MMIMDB(), str(root), root)


@pytest.mark.parametrize(
  ('split', 'message'),
  [
    (None, 'split is missing, and with 12 films instead of 25959'),
    (np.zeros(3), 'expected columns split, source, start'),
    ('fuel', 'expected columns split, source, start'),
    (_fuel({**BORDERS, 'test': (8, 13)}), 'range of rows within 0 to 12 for test'),
    (_fuel({**BORDERS, 'dev': (6, 6)}), 'within 0 to 12 for dev'),
    (_fuel({**BORDERS, 'dev': (5, 8)}), '1 ids are in train and in valid'),
    (_fuel({'train': (0, 6), 'test': (8, 12)}), 'for dev of features'),
    (_fuel(BORDERS, sources=('features', 'genres')), 'common range .* for train'),
  ],
)
def test_a_wrong_split_is_refused(root, split, message):
  with _edit(root) as file:
    del file.attrs['split']
    if split is not None:
      file.attrs['split'] = split
  with pytest.raises(DataError, match=message):
    load(MMIMDB(), str(root), root)


def test_sources_with_different_ranges_are_refused(root):
  table = _fuel(BORDERS)
  table['stop'][1] = 5
  with _edit(root) as file:
    file.attrs['split'] = table
  with pytest.raises(DataError, match=r'no common range .* for train'):
    MMIMDB().load(root)


def test_lists_of_rows_are_refused(root):
  with _edit(root) as file:
    file.attrs['split'] = _fuel(BORDERS, reference=file['genres'].ref)
  with pytest.raises(DataError, match='no common range'):
    MMIMDB().load(root)


@pytest.mark.parametrize(
  'names', [None, '[', '["a"]', json.dumps(['a'] * 23), json.dumps({'a': 1}), 7]
)
def test_wrong_names_of_genres_are_refused(root, names):
  with _edit(root) as file:
    del file['genres'].attrs['target_names']
    if names is not None:
      file['genres'].attrs['target_names'] = names
  with pytest.raises(DataError, match='target_names of genres'):
    load(MMIMDB(), str(root), root)


def test_data_in_other_places_are_refused(root):
  path = root / 'multimodal_imdb.hdf5'
  with _edit(root) as file:
    vgg = file['vgg_features'][...]
    file.move('vgg_features', 'elsewhere')
  (root / 'raw').write_bytes(vgg.tobytes())
  with h5py.File(root / 'other.hdf5', 'w') as other:
    other['vgg_features'] = vgg

  def virtual(file):
    layout = h5py.VirtualLayout(vgg.shape, vgg.dtype)
    layout[:] = h5py.VirtualSource(root / 'other.hdf5', 'vgg_features', vgg.shape)
    file.create_virtual_dataset('vgg_features', layout)

  def external(file):
    file.create_dataset(
      'vgg_features',
      vgg.shape,
      vgg.dtype,
      external=[(str(root / 'raw'), 0, vgg.nbytes)],
    )

  def soft_link(file):
    file['vgg_features'] = h5py.SoftLink('/elsewhere')

  def external_link(file):
    file['vgg_features'] = h5py.ExternalLink(root / 'other.hdf5', 'vgg_features')

  for write, message in (
    (virtual, 'in other files'),
    (external, 'in other files'),
    (soft_link, 'is a link'),
    (external_link, 'is a link'),
    (
      lambda file: file.create_dataset('vgg_features', vgg.shape, 'f4'),
      'never written',
    ),
    (lambda file: file.create_group('vgg_features'), 'is a group'),
    (lambda file: None, 'no dataset vgg_features'),
  ):
    with h5py.File(path, 'r+') as file:
      write(file)
    with pytest.raises(DataError, match=f'vgg_features.*{message}|no dataset'):
      MMIMDB().load(root)
    with h5py.File(path, 'r+') as file:
      if file.get('vgg_features', getlink=True) is not None:
        del file['vgg_features']
  with h5py.File(path, 'r+') as file:
    file.move('elsewhere', 'vgg_features')
  np.testing.assert_array_equal(MMIMDB().load(root)['train'].inputs['image'], vgg[:6])


def test_no_flipped_byte_brings_another_error(root):
  """A damaged file is an error of ours or reads as numbers; nothing else escapes."""
  path = root / 'multimodal_imdb.hdf5'
  original = path.read_bytes()
  rng = np.random.default_rng(0)
  # The structures of the file, rather than its numbers, are in these places.
  places = [i for i in range(len(original)) if i < 2000 or i > len(original) - 8000]
  for _ in range(150):
    damaged = bytearray(original)
    damaged[rng.choice(places)] ^= int(rng.integers(1, 256))
    path.write_bytes(damaged)
    with contextlib.suppress(DataError):
      load(MMIMDB(), str(root), root)
