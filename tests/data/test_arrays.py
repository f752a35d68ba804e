"""A user's own file: what is understood, and what is said about the rest."""

import h5py
import numpy as np
import pytest

from jdyn.data.dataset import DataError
from jdyn.data.load import load
from jdyn.data.sources.arrays import Arrays

RNG = np.random.default_rng(0)


def _arrays(**changes):
  """Arrays of a small dataset; `changes` have `__` for `/`, and None removes."""
  arrays = {}
  for split, size in (('train', 20), ('test', 6)):
    arrays |= {
      f'{split}/text': RNG.random((size, 3)),
      f'{split}/sound': RNG.random((size, 5, 2)).astype(np.float32),
      f'{split}/sound_length': 1 + np.arange(size) % 5,
      f'{split}/photo': RNG.integers(0, 256, (size, 4, 4, 3), np.uint8),
      f'{split}/label': np.arange(size) % 3,
    }
  arrays |= {key.replace('__', '/'): value for key, value in changes.items()}
  return {key: value for key, value in arrays.items() if value is not None}


def _write(path, arrays):
  if path.suffix == '.npz':
    np.savez(path, **arrays)
  else:
    with h5py.File(path, 'w') as file:
      for key, value in arrays.items():
        file[key] = value
  return path


def _load(tmp_path, arrays, **options):
  return load(Arrays(**options), str(_write(tmp_path / 'data.npz', arrays)), tmp_path)


@pytest.mark.parametrize('suffix', ['.npz', '.hdf5', '.h5'])
def test_both_formats_give_the_arrays(tmp_path, suffix):
  arrays = _arrays(test__id=np.array([f'person {n}' for n in range(6)]).astype('S'))
  path = _write(tmp_path / f'mine{suffix}', arrays)
  dataset = load(Arrays(), str(path), tmp_path)
  spec, test = dataset.spec, dataset.splits['test']
  assert (spec.name, spec.task, spec.num_outputs) == ('mine', 'multiclass', 3)
  assert spec.class_names == ('0', '1', '2')
  assert {m: (s.shape, s.sequence) for m, s in spec.modalities.items()} == {
    'photo': ((4, 4, 3), False),
    'sound': ((5, 2), True),
    'text': ((3,), False),
  }
  np.testing.assert_array_equal(test.inputs['text'], np.float32(arrays['test/text']))
  np.testing.assert_array_equal(test.inputs['photo'], arrays['test/photo'])
  assert test.inputs['photo'].dtype == np.uint8
  np.testing.assert_array_equal(
    test.inputs['sound']['length'], arrays['test/sound_length']
  )
  assert test.ids[2] == 'person 2'
  assert test.label.tolist() == [0, 1, 2, 0, 1, 2]


def test_validation_is_carved_within_each_class(tmp_path):
  splits = _load(tmp_path, _arrays(), valid_fraction=0.3).splits
  assert (len(splits['train']), len(splits['valid'])) == (14, 6)
  assert sorted(splits['valid'].label.tolist()) == [0, 0, 1, 1, 2, 2]
  assert set(splits['valid'].ids) <= {f'train/{n:05d}' for n in range(20)}
  own = {
    key.replace('test/', 'valid/'): value
    for key, value in _arrays().items()
    if key.startswith('test/')
  }
  splits = _load(tmp_path, _arrays() | own).splits
  assert (len(splits['train']), len(splits['valid'])) == (20, 6)


def test_a_sequence_without_lengths_is_whole(tmp_path):
  arrays = _arrays(train__sound_length=None, test__sound_length=None)
  sound = _load(tmp_path, arrays).splits['test'].inputs['sound']
  assert sound['length'].tolist() == [5] * 6


def test_where_a_modality_is_absent_it_is_blank(tmp_path):
  present = np.arange(6) % 2
  absent = present == 0
  text = np.where(absent[:, None], np.nan, np.ones((6, 3)))
  arrays = _arrays(
    test__text=text,
    test__sound_length=np.where(absent, 0, 3),
    test__text_present=present.astype(np.float64),
    test__sound_present=present.astype(bool),
    test__photo_present=present.astype(np.uint8),
  )
  with pytest.raises(DataError, match='test: 3 examples have no modality at all'):
    _load(tmp_path, arrays)
  arrays['test/photo_present'] = 1 - present
  splits = _load(tmp_path, arrays).splits
  test = splits['test'].inputs
  assert {k for k in splits['train'].inputs if k.startswith('present/')} == set()
  for name, there in (('text', ~absent), ('sound', ~absent), ('photo', absent)):
    mask = test[f'present/{name}']
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, there)
  np.testing.assert_array_equal(test['text'], np.where(absent[:, None], 0, text))
  assert test['sound']['length'].tolist() == [1, 3, 1, 3, 1, 3]
  assert not test['sound']['steps'][absent].any()
  np.testing.assert_array_equal(
    test['sound']['steps'][~absent], arrays['test/sound'][~absent]
  )
  assert test['photo'].dtype == np.uint8
  np.testing.assert_array_equal(test['photo'][absent], arrays['test/photo'][absent])
  assert not test['photo'][~absent].any()


def test_masks_are_held_out_with_their_examples(tmp_path):
  present = np.arange(20) % 3 > 0
  arrays = _arrays(train__text=np.repeat(present[:, None], 3, 1) * 1.0)
  splits = _load(tmp_path, arrays | {'train/text_present': present}).splits
  for part in ('train', 'valid'):
    inputs = splits[part].inputs
    np.testing.assert_array_equal(inputs['present/text'], inputs['text'][:, 0] == 1)


@pytest.mark.parametrize(
  ('train', 'test', 'task', 'num_outputs'),
  [
    (np.arange(20) % 2, np.arange(6) % 4, 'multiclass', 4),
    (np.arange(20) % 2 == 0, np.arange(6) % 2 == 0, 'multiclass', 2),
    (np.zeros(20, np.uint8), np.zeros(6, np.uint8), 'multiclass', 2),
    (np.eye(4)[np.arange(20) % 4], np.eye(4)[np.arange(6) % 4], 'multilabel', 4),
    (np.ones((20, 2), bool), np.zeros((6, 2), bool), 'multilabel', 2),
    (np.linspace(-3, 3, 20), np.linspace(-3, 3, 6), 'regression', 1),
  ],
)
def test_the_label_says_the_task(tmp_path, train, test, task, num_outputs):
  dataset = _load(tmp_path, _arrays(train__label=train, test__label=test))
  assert (dataset.spec.task, dataset.spec.num_outputs) == (task, num_outputs)
  np.testing.assert_array_equal(dataset.splits['test'].label, test.astype(np.float32))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (dict(train__label=None), 'no array train/label'),
    (
      dict(train__txt_present=np.ones(20, bool), test__txt_present=np.ones(6, bool)),
      r"train/txt_present is about 'txt', which there is not. .*'text'",
    ),
    (dict(test__text=None), r"test has the modalities \['photo', 'sound'\]"),
    (dict(text=np.zeros(3)), "unknown array 'text'.*<split>/<name>"),
    (dict(validation__text=np.zeros(3)), "unknown array 'validation/text'"),
    (dict(train__more__text=np.zeros(3)), "unknown array 'train/more/text'"),
    (dict(train__text=np.float32(3)), 'train/text is a single value'),
    (dict(train__text=np.zeros((19, 3))), 'train/text has 19 rows for 20 labels'),
    (dict(train__text=np.full((20, 3), 'x')), 'train/text is of type <U1'),
    (dict(test__text=np.zeros((6, 4))), r'test, modality text: .*\(4,\) .* \(3,\)'),
    (dict(test__text=np.full((6, 3), np.nan)), 'test, modality text: 6 of 6'),
    (dict(train__photo=np.full((20, 1), 2**40)), 'train/photo has integers of more'),
    (dict(train__text_length=np.ones(20, int)), r'text_length|train/text has a length'),
    (dict(train__sound_length=np.full(20, 6)), 'outside 1 to 5'),
    (dict(train__sound_length=np.ones(20)), 'lengths are float32'),
    (
      dict(train__sound_length=np.ones(20), train__sound_present=np.ones(20)),
      'lengths are float32',
    ),
    (dict(train__text_present=np.ones((20, 1))), 'text_present must hold 0 or 1 per'),
    (dict(train__text_present=np.full(20, 0.5)), 'text_present must hold 0 or 1 per'),
    (dict(train__text_present=np.full(20, np.nan)), 'text_present must hold 0 or 1'),
    (dict(train__text_present=np.ones(19)), 'text_present has 19 rows for 20 labels'),
    (dict(train__label=np.arange(20) - 1), 'no task has the labels'),
    (dict(train__label=np.arange(20) / 2), 'no task has the labels .*int64'),
    (dict(train__label=np.zeros((20, 2))), 'no task has the labels'),
    (dict(train__label=np.zeros((20, 2)), test__label=np.ones((6, 3))), 'no task'),
    (dict(train__label=np.full((20, 2), 2), test__label=np.ones((6, 2))), 'no task'),
    (dict(test__id=np.zeros(6, int)), 'test: the id 0 occurs more than once'),
    (dict(test__id=np.array([b'\xff'] * 6)), 'test/id: ids are not UTF-8'),
    (
      dict(train__id=np.arange(20), test__id=np.arange(6)),
      'ids are in (train|valid) and in test',
    ),
  ],
)
def test_what_does_not_fit_is_named(tmp_path, changes, message):
  arrays = _arrays(**changes)
  if 'train__text_length' in changes:
    arrays['test/text_length'] = np.ones(6, int)
  with pytest.raises(DataError, match=message):
    _load(tmp_path, arrays)


@pytest.mark.parametrize('split', ['train', 'test'])
def test_both_splits_are_needed(tmp_path, split):
  arrays = {key: value for key, value in _arrays().items() if not key.startswith(split)}
  with pytest.raises(DataError, match=f'no arrays {split}/<name>'):
    _load(tmp_path, arrays)


def test_an_unknown_suffix_is_refused(tmp_path):
  (tmp_path / 'data.csv').write_text('1,2')
  with pytest.raises(DataError, match=r'data.csv: unknown type .*expected .npz'):
    load(Arrays(file='data.csv'), str(tmp_path), tmp_path)


def test_pickled_objects_are_not_loaded(tmp_path):
  class Trap:
    def __reduce__(self):
      return (pytest.fail, ('the pickle was executed',))

  objects = np.empty(20, object)
  objects[:] = Trap()
  with pytest.raises(DataError, match='arrays of objects cannot be read'):
    _load(tmp_path, _arrays(train__text=objects))


def test_a_single_array_is_no_archive(tmp_path):
  with (tmp_path / 'data.npz').open('wb') as file:
    np.save(file, np.zeros(3))
  with pytest.raises(DataError, match=r'data.npz: not a complete .npz file'):
    load(Arrays(), str(tmp_path), tmp_path)


@pytest.mark.parametrize('write', [np.savez, np.savez_compressed])
def test_a_flipped_byte_is_noticed_by_the_checksum(tmp_path, write):
  path = tmp_path / 'data.npz'
  write(path, **_arrays(train__text=np.zeros((20, 3000))))
  content = bytearray(path.read_bytes())
  content[len(content) // 3] ^= 1
  path.write_bytes(content)
  with pytest.raises(DataError, match=r'data.npz: not a complete .npz file'):
    load(Arrays(), str(tmp_path), tmp_path)


def test_links_in_hdf5_are_refused(tmp_path):
  path = _write(tmp_path / 'data.hdf5', _arrays(train__text=None))
  with h5py.File(path, 'r+') as file:
    file['train/text'] = h5py.ExternalLink('/etc/hostname', 'x')
  with pytest.raises(DataError, match='train/text is a link'):
    load(Arrays(), str(path), tmp_path)
  with h5py.File(path, 'w') as file:
    file['train'] = h5py.SoftLink('/test')
  with pytest.raises(DataError, match='train is a link'):
    load(Arrays(), str(path), tmp_path)
