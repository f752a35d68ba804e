"""Where data come from is said truly, and stand-ins are written whole or not at all."""

import dataclasses
import hashlib
import json
import logging

import numpy as np
import pytest

from jdyn.data.dataset import DataError
from jdyn.data.hashing import sha256_file
from jdyn.data.load import load
from jdyn.data.preparation import write_manifest
from jdyn.data.sealed import write_sealed
from jdyn.data.sources.arrays import Arrays
from jdyn.data.sources.digits import Digits
from jdyn.data.sources.mogonet import Rosmap


def test_hash_is_sha256(tmp_path):
  content = np.random.default_rng(0).bytes(3_000_000)
  (tmp_path / 'file').write_bytes(content)
  assert sha256_file(tmp_path / 'file') == hashlib.sha256(content).hexdigest()


def test_a_root_is_real_data(tmp_path, caplog):
  (tmp_path / 'data').mkdir()
  Rosmap().write_stand_in(tmp_path / 'data', 0)
  dataset = load(Rosmap(), str(tmp_path / 'data'), tmp_path / 'cache')
  assert dataset.origin == 'real'
  assert not caplog.records
  assert not (tmp_path / 'cache').exists()
  table = (tmp_path / 'data' / '1_tr.csv').read_bytes()
  assert dataset.hashes['1_tr.csv'] == hashlib.sha256(table).hexdigest()
  assert len(dataset.hashes) == 8


def test_a_file_may_be_the_root(tmp_path):
  Arrays(file='mine.npz').write_stand_in(tmp_path, 0)
  dataset = load(Arrays(), str(tmp_path / 'mine.npz'), tmp_path / 'cache')
  assert dataset.spec.name == 'mine'
  assert list(dataset.hashes) == ['mine.npz']


def test_a_stand_in_is_announced_and_kept(tmp_path, caplog):
  with caplog.at_level(logging.WARNING):
    first = load(Arrays(), '', tmp_path)
  assert first.origin == 'synthetic stand-in'
  assert 'SYNTHETIC STAND-IN' in caplog.text
  assert Arrays.layout in caplog.text
  (folder,) = tmp_path.iterdir()
  written = (folder / 'data.npz').stat().st_mtime_ns
  assert load(Arrays(), None, tmp_path).hashes == first.hashes
  assert (folder / 'data.npz').stat().st_mtime_ns == written
  # Other options or another seed are other files.
  load(Arrays(), '', tmp_path, seed=1)
  load(Arrays(file='data.hdf5'), '', tmp_path)
  assert len(list(tmp_path.iterdir())) == 3


def test_a_stand_in_named_as_root_is_still_one(tmp_path, caplog):
  load(Arrays(), '', tmp_path)
  (folder,) = tmp_path.iterdir()
  caplog.clear()
  for root in (folder, folder / 'data.npz'):
    assert load(Arrays(), str(root), tmp_path).origin == 'synthetic stand-in'
    assert 'SYNTHETIC STAND-IN' in caplog.text


@dataclasses.dataclass(frozen=True)
class _Interrupted(Arrays):
  error: type = OSError

  def write_stand_in(self, root, seed):
    (root / 'data.npz').write_bytes(b'half')
    raise self.error('disk full')


@pytest.mark.parametrize('error', [OSError, KeyboardInterrupt])
def test_an_interrupted_stand_in_leaves_nothing(error, tmp_path):
  with pytest.raises(error):
    load(_Interrupted(error=error), '', tmp_path)
  assert not list(tmp_path.iterdir())


@dataclasses.dataclass(frozen=True)
class _Overtaken(Arrays):
  def write_stand_in(self, root, seed):
    super().write_stand_in(root, seed)
    if seed == 0:  # Another process finishes while this one writes.
      other = root.parent / root.name[1:].rsplit('-', 1)[0]
      other.mkdir()
      super().write_stand_in(other, seed=5)


def test_the_first_of_two_writers_wins(tmp_path):
  dataset = load(_Overtaken(), '', tmp_path)
  (folder,) = tmp_path.iterdir()
  assert dataset.hashes == {'data.npz': sha256_file(folder / 'data.npz')}


def test_bundled_data_need_no_root(tmp_path):
  dataset = load(Digits(), '', tmp_path / 'cache')
  assert dataset.origin == 'bundled'
  assert list(dataset.hashes) == ['digits.csv.gz']
  assert not (tmp_path / 'cache').exists()
  with pytest.raises(DataError, match=r'Leave data.root empty'):
    load(Digits(), str(tmp_path), tmp_path)


def test_digits_are_those_of_scikit_learn(tmp_path):
  from sklearn.datasets import load_digits

  digits = load_digits()
  splits = load(Digits(), '', tmp_path).splits
  assert [len(splits[name]) for name in ('train', 'valid', 'test')] == [1078, 270, 449]
  for split in splits.values():
    rows = [int(name.split('/')[1]) for name in split.ids]
    np.testing.assert_array_equal(split.label, digits.target[rows])
    np.testing.assert_array_equal(split.inputs['fine'] * 16, digits.data[rows])
    corner = digits.images[rows][:, 4:6, 2:4].mean(axis=(1, 2)) / 16  # Block (2, 1).
    np.testing.assert_array_equal(split.inputs['coarse'][:, 2 * 4 + 1], corner)


def test_loading_validates(tmp_path):
  Rosmap().write_stand_in(tmp_path, 0)
  path = tmp_path / '2_te.csv'
  lines = path.read_text().splitlines()
  lines[7] = lines[7].replace(lines[7].split(',')[0], 'nan', 1)
  path.write_text('\n'.join(lines))
  with pytest.raises(DataError, match=r'methylation: 1 of 60 .* test/00007'):
    load(Rosmap(), str(tmp_path), tmp_path)


@pytest.fixture
def prepared(tmp_path):
  """A folder as `python -m jdyn.prepare` leaves it."""
  root = tmp_path / 'prepared'
  (root / 'below').mkdir(parents=True)
  Rosmap().write_stand_in(root, 0)
  (root / 'below' / 'unused.txt').write_text('nobody reads this')
  write_manifest(root, {'name': 'made up'})
  return root


def _flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def test_a_manifest_lists_every_file(prepared):
  manifest = json.loads((prepared / 'manifest.json').read_text())
  names = {str(p.relative_to(prepared)) for p in prepared.rglob('*') if p.is_file()}
  assert set(manifest['files']) == names - {'manifest.json'}
  assert {'numpy', 'jdyn', 'python'} <= set(manifest['versions'])


def test_prepared_files_are_hashed_once(prepared, monkeypatch):
  seen = []
  monkeypatch.setattr(
    'jdyn.data.load.sha256_file', lambda path: seen.append(path) or sha256_file(path)
  )
  dataset = load(Rosmap(), str(prepared), prepared)
  assert len(seen) == len(set(seen)) == len(dataset.hashes) == 8


@pytest.mark.parametrize(
  ('name', 'damage', 'message'),
  [
    ('2_te.csv', _flip, r'2_te\.csv: damaged.* Restore it .* prepare the folder again'),
    ('labels_tr.csv', lambda path: path.unlink(), r'labels_tr\.csv: missing; .*mani'),
    ('manifest.json', _flip, r'manifest\.json: damaged.* prepare the folder again'),
    ('manifest.json', lambda path: path.write_bytes(b''), r'manifest\.json: damaged'),
  ],
)
def test_a_prepared_file_that_is_damaged_is_named(prepared, name, damage, message):
  load(Rosmap(), str(prepared), prepared)
  damage(prepared / name)
  with pytest.raises(DataError, match=message):
    load(Rosmap(), str(prepared), prepared)


def test_a_file_that_came_later_is_refused(prepared):
  manifest = json.loads((prepared / 'manifest.json').read_text())
  files = [prepared / name for name in manifest['files'] if name != '2_te.csv']
  write_sealed(prepared / 'manifest.json', {'made_by': 'jdyn'}, files)
  with pytest.raises(DataError, match=r'2_te\.csv: not there when .*manifest\.json'):
    load(Rosmap(), str(prepared), prepared)


@pytest.mark.parametrize('key', ['files', 'made_by', 'sha256'])
def test_no_flipped_bit_makes_a_manifest_somebody_elses(prepared, key):
  path = prepared / 'manifest.json'
  path.write_text(path.read_text().replace(f'"{key}"', f'"{key[:-1]}~"'))
  with pytest.raises(DataError, match=r'manifest\.json: damaged'):
    load(Rosmap(), str(prepared), prepared)


@pytest.mark.parametrize('text', ['[]', '{}', '{"files": ["1_tr.csv"]}'])
def test_somebody_elses_manifest_does_not_matter(prepared, text):
  (prepared / 'manifest.json').write_text(text)
  _flip(prepared / 'below' / 'unused.txt')
  assert load(Rosmap(), str(prepared), prepared).origin == 'real'


def test_a_damaged_stand_in_is_named(tmp_path):
  load(Arrays(), '', tmp_path)
  (folder,) = tmp_path.iterdir()
  _flip(folder / 'data.npz')
  with pytest.raises(DataError, match=rf'data\.npz: damaged.* Remove {folder} to have'):
    load(Arrays(), '', tmp_path)
