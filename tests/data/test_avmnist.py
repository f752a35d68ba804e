"""AV-MNIST's arrays: memory-mapped, decoded late, and refused when damaged."""

import json
import pickle

import numpy as np
import pytest

from jdyn.data.dataset import DataError
from jdyn.data.load import load
from jdyn.data.pipeline import assemble
from jdyn.data.sources.avmnist import AVMNIST


def _write(folder, sizes=(36, 5)):
  rng = np.random.default_rng(0)
  for name in ('image', 'audio'):
    (folder / name).mkdir(parents=True)
  for part, size in zip(('train', 'test'), sizes, strict=True):
    np.save(folder / 'image' / f'{part}_data.npy', rng.uniform(-9, 260, (size, 784)))
    audio = rng.integers(0, 256, (size, 112, 112), np.uint8)
    np.save(folder / 'audio' / f'{part}_data.npy', audio)
    np.save(folder / f'{part}_labels.npy', np.arange(size, dtype=np.uint8) % 10)
  return folder


@pytest.fixture
def root(tmp_path):
  return _write(tmp_path / 'avmnist')


def test_the_last_twelfth_of_train_is_validation(root):
  splits = load(AVMNIST(), str(root), root).splits
  assert [len(splits[name]) for name in ('train', 'valid', 'test')] == [33, 3, 5]
  assert splits['train'].ids[0] == 'train/00000'
  assert splits['valid'].ids.tolist() == ['train/00033', 'train/00034', 'train/00035']
  assert splits['valid'].label.tolist() == [3, 4, 5]
  splits = AVMNIST().load(_write(root / 'other', sizes=(35, 1)))
  assert [len(splits[name]) for name in ('train', 'valid', 'test')] == [33, 2, 1]


def test_a_batch_is_scaled_and_shaped(root):
  split = load(AVMNIST(), str(root), root).splits['valid']
  inputs = assemble(split, np.array([2, 0]))['inputs']
  image = np.load(root / 'image' / 'train_data.npy')[[35, 33]]
  audio = np.load(root / 'audio' / 'train_data.npy')[[35, 33]]
  assert inputs['image'].shape == (2, 28, 28, 1)
  np.testing.assert_allclose(
    inputs['image'][:, 3, 4, 0], image[:, 3 * 28 + 4] / 255, rtol=1e-6
  )
  np.testing.assert_allclose(inputs['audio'][..., 0], audio / 255, rtol=1e-6)
  assert {value.dtype for value in inputs.values()} == {np.dtype(np.float32)}


def test_the_arrays_stay_on_disk(root):
  for split in AVMNIST().load(root).values():
    for leaf in split.inputs.values():
      assert isinstance(leaf, np.memmap)
      assert not leaf.flags.writeable


def test_ids_come_from_the_manifest(root):
  ids = {
    'train': [f'{n}-jackson' for n in range(36)],
    'test': [f't{n}' for n in range(5)],
  }
  (root / 'manifest.json').write_text(json.dumps({'ids': ids}))
  dataset = load(AVMNIST(), str(root), root)
  assert dataset.splits['valid'].ids[0] == 'train/33-jackson'
  assert dataset.splits['test'].ids[4] == 'test/t4'
  assert 'manifest.json' in dataset.hashes
  (root / 'manifest.json').write_text(json.dumps({'recipe': 'none'}))
  assert AVMNIST().load(root)['test'].ids[4] == 'test/00004'


@pytest.mark.parametrize(
  ('manifest', 'message'),
  [
    ('{', 'manifest.json: damaged'),
    ('{"ids": {"train": []}}', '0 ids for 36 rows of train'),
    ('{"ids": {"test": []}}', 'list of ids for train'),
    ('{"ids": 3}', 'list of ids for train'),
    ('{"ids": {"train": 3}}', 'list of ids for train'),
    (
      json.dumps({'ids': {'train': ['a'] * 36, 'test': [1] * 5}}),
      'train/a occurs more',
    ),
  ],
)
def test_a_wrong_manifest_is_refused(root, manifest, message):
  (root / 'manifest.json').write_text(manifest)
  with pytest.raises(DataError, match=message):
    load(AVMNIST(), str(root), root)


@pytest.mark.parametrize(
  ('file', 'array', 'message'),
  [
    ('image/train_data', np.zeros((36, 28, 28)), r'\(36, 28, 28\).* \(N, 784\)'),
    ('image/train_data', np.zeros((35, 784)), '35 rows for the 36 of train_labels'),
    ('image/test_data', np.full((5, 784), np.nan), 'modality image: 5 of 5'),
    ('image/test_data', np.zeros((5, 784), '>f8'), 'byte order'),
    ('image/test_data', np.zeros((5, 784), 'S3'), r'image/test_data.npy: \|S3'),
    ('audio/test_data', np.zeros((5, 112, 111), 'u1'), r'\(N, 112, 112\)'),
    ('audio/train_data', np.uint8(3), 'of shape '),
    ('train_labels', np.arange(36), 'train_labels.npy: row 10 is 10'),
    ('train_labels', np.zeros(36), 'train_labels.npy: float64'),
    ('train_labels', np.zeros((36, 1), int), r'\(36, 1\) instead of .* \(N\)'),
    ('test_labels', np.zeros(0, int), 'rows for the 0 of test_labels'),
  ],
)
def test_a_wrong_array_is_named(root, file, array, message):
  np.save(root / f'{file}.npy', array)
  with pytest.raises(DataError, match=message):
    load(AVMNIST(), str(root), root)


def test_pickled_objects_are_not_loaded(root):
  class Trap:
    def __reduce__(self):
      return (pytest.fail, ('the pickle was executed',))

  objects = np.empty(5, object)
  objects[:] = Trap()
  path = root / 'test_labels.npy'
  np.save(path, objects, allow_pickle=True)
  with pytest.raises(DataError, match=r'test_labels.npy: not a complete .npy array'):
    load(AVMNIST(), str(root), root)
  path.write_bytes(pickle.dumps(Trap()))
  with pytest.raises(DataError, match=r'test_labels.npy: not a complete .npy array'):
    load(AVMNIST(), str(root), root)
