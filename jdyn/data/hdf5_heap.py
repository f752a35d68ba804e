"""Finds damaged heaps of an HDF5 file before libhdf5 reads them.

Values of any length, such as texts, lie in global heap collections (section III.E of
the HDF5 File Format Specification, version 3). Free space of no size in one of them,
which a flipped byte can make, keeps libhdf5 2.0 in a loop that never ends.
"""

import mmap
import struct
from pathlib import Path

_START = b'GCOL\x01\0\0\0'  # Signature, version, and what is reserved.
_HEADER = len(_START) + 8
_ENTRY = struct.Struct('<HHIQ')  # Number, references, reserved, size of the object.


def check_heaps(path: Path) -> None:
  """Walks through every global heap collection of a file.

  Raises:
    ValueError: an entry of one reaches beyond its end, or free space has no size.
  """
  with (
    open(path, 'rb') as file,
    mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as m,
  ):
    place = m.find(_START)
    while place >= 0:
      _check(m, place)
      place = m.find(_START, place + 1)


def _check(content: mmap.mmap, start: int) -> None:
  (size,) = struct.unpack_from('<Q', content, start + len(_START))
  end = start + size
  if size < _HEADER or end > len(content):
    raise ValueError(f'a heap of {size} bytes at byte {start}')
  place = start + _HEADER
  while place + _ENTRY.size <= end:  # What is left then is too small for an entry.
    number, _, _, length = _ENTRY.unpack_from(content, place)
    # The size of free space counts its own entry, that of an object does not.
    step = length if number == 0 else _ENTRY.size + -(-length // 8) * 8
    if step < _ENTRY.size or place + step > end:
      raise ValueError(f'an entry of {length} bytes in a heap, at byte {place}')
    place += step
