"""Whatever bit of a sealed file is flipped, and wherever it is cut, it is refused."""

import json

import pytest

from jdyn.data.dataset import DataError
from jdyn.data.sealed import check_files, read_sealed, write_sealed

VALUE = {'b': [1, 2.5, None], 'a': {'ä': 'ö'}}


@pytest.fixture
def sealed(tmp_path):
  (tmp_path / 'below').mkdir()
  (tmp_path / 'below' / 'x.bin').write_bytes(bytes(range(9)))
  write_sealed(tmp_path / 'it.json', VALUE, [tmp_path / 'below' / 'x.bin'])
  return tmp_path / 'it.json'


def test_what_was_written_is_read(sealed):
  assert read_sealed(sealed) == VALUE
  check_files(sealed)
  assert json.loads(sealed.read_text()).keys() == {'a', 'b', 'files', 'sha256'}
  assert [path.name for path in sealed.parent.glob('*.partial')] == []


def test_keys_become_text(tmp_path):
  write_sealed(tmp_path / 'it.json', {'steps': {10: 1, 9: 2}})
  assert read_sealed(tmp_path / 'it.json') == {'steps': {'10': 1, '9': 2}}


def test_every_bit_counts(sealed):
  whole = sealed.read_bytes()
  for place in range(8 * len(whole)):
    damaged = bytearray(whole)
    damaged[place // 8] ^= 1 << place % 8
    sealed.write_bytes(damaged)
    with pytest.raises(DataError, match=r'it\.json: damaged'):
      read_sealed(sealed)


def test_every_cut_counts(sealed):
  whole = sealed.read_bytes()
  for size in range(len(whole)):
    sealed.write_bytes(whole[:size])
    with pytest.raises(DataError, match=r'it\.json: damaged'):
      read_sealed(sealed)


def test_what_it_lists_is_checked(sealed):
  file = sealed.parent / 'below' / 'x.bin'
  file.write_bytes(bytes(range(8)) + b'\0')
  with pytest.raises(DataError, match=r'x\.bin: damaged.* Sow it\.'):
    check_files(sealed, remedy='Sow it.')
  check_files(sealed, names=[])
  file.unlink()
  with pytest.raises(DataError, match=r'x\.bin: missing'):
    check_files(sealed)
  with pytest.raises(DataError, match=r'y\.bin: not there when .*it\.json was'):
    check_files(sealed, names=['y.bin'])


@pytest.mark.parametrize('text', ['{}', '[]', '', '{"sha256": 1}', '[' * 10**5])
def test_another_json_file_is_refused(tmp_path, text):
  (tmp_path / 'it.json').write_text(text)
  with pytest.raises(DataError, match='damaged'):
    read_sealed(tmp_path / 'it.json')


def test_keys_of_the_seal_are_kept(tmp_path):
  with pytest.raises(ValueError, match='kept for the seal'):
    write_sealed(tmp_path / 'it.json', {'files': 1})


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(DataError, match='No such file'):
    read_sealed(tmp_path / 'it.json')
