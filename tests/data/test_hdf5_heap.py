"""A damaged heap of texts is refused before libhdf5 loops in it for ever."""

import struct

import h5py
import numpy as np
import pytest

from jdyn.data.dataset import DataError
from jdyn.data.hdf5 import open_file, read
from jdyn.data.hdf5_heap import check_heaps

TEXTS = ['a', 'bc', 'def' * 9]


@pytest.fixture
def path(tmp_path):
  found = tmp_path / 'texts.hdf5'
  with h5py.File(found, 'w') as file:
    file.create_dataset('ids', data=TEXTS, dtype=h5py.string_dtype())
    # The signature alone, within data, is no heap.
    file['bytes'] = np.frombuffer(b'GCOL\x02' * 9, np.uint8)
  return found


def _free_space(content: bytes) -> int:
  """Place of the entry that says how much of the heap is free."""
  place = content.index(b'GCOL\x01') + 16
  while struct.unpack_from('<H', content, place)[0]:
    (size,) = struct.unpack_from('<Q', content, place + 8)
    place += 16 + -(-size // 8) * 8
  return place


def test_a_whole_file_is_read(path):
  check_heaps(path)
  with open_file(path) as file:
    assert read(file, 'ids').tolist() == TEXTS


@pytest.mark.parametrize('size', [0, 8, 2**63])
def test_free_space_of_another_size_is_refused(path, size):
  content = bytearray(path.read_bytes())
  struct.pack_into('<Q', content, _free_space(content) + 8, size)
  path.write_bytes(content)
  with (
    pytest.raises(DataError, match=r'texts\.hdf5: damaged, with an entry'),
    open_file(path) as file,
  ):
    read(file, 'ids')


@pytest.mark.parametrize('size', [0, 2**40])
def test_a_heap_of_another_size_is_refused(path, size):
  content = bytearray(path.read_bytes())
  struct.pack_into('<Q', content, content.index(b'GCOL\x01') + 8, size)
  path.write_bytes(content)
  with pytest.raises(ValueError, match='a heap of'):
    check_heaps(path)
