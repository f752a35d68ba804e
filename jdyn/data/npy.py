"""NumPy's files, `.npy` and `.npz`, read without trusting what they say of themselves.

Only arrays of numbers, booleans and text are read, never objects or records. A header
is compared with the bytes that are there before anything is allocated, so an array
takes as much memory as its file; the arrays of an archive together take at most what
`jdyn.data.expansion` allows.
"""

import io
import lzma
import math
import struct
import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import BinaryIO

import numpy as np

from jdyn.data import expansion
from jdyn.data.files import brief

MAGIC = b'\x93NUMPY'
"""What a `.npy` file begins with."""

_LONGEST_HEADER = 10_000
_VERSIONS = {  # How the header's length is written, and what reads the rest.
  b'\x01\x00': ('<H', np.lib.format.read_array_header_1_0),
  b'\x02\x00': ('<I', np.lib.format.read_array_header_2_0),
}
_FREE_ROWS = 2**20
_LAST_CHARACTER = 0x10FFFF

# What a header that is no literal, or not NumPy's, makes of `ast.literal_eval`.
_BAD_HEADER = (
  AttributeError,
  IndexError,
  KeyError,
  MemoryError,
  OverflowError,
  RecursionError,
  SyntaxError,
  TokenError,
  TypeError,
  ValueError,
)
_BAD_ARCHIVE = (
  EOFError,
  NotImplementedError,
  OverflowError,
  RuntimeError,
  lzma.LZMAError,
  struct.error,
  zipfile.BadZipFile,
  zlib.error,
)


def read(path: Path) -> np.ndarray:
  """The array of a `.npy` file.

  Raises:
    OSError: it cannot be opened.
    ValueError: with the reason, if it is not whole or holds something else.
  """
  with path.open('rb') as file:
    return read_array(file, path.stat().st_size)


def read_map(path: Path) -> np.ndarray:
  """The same, mapped from the disk; it takes no memory. Raises what `read` raises."""
  with path.open('rb') as file:
    shape, order, dtype = read_header(file, path.stat().st_size)
    place = file.tell()
  if not math.prod(shape):  # There is nothing to map.
    return np.empty(shape, dtype)
  return np.memmap(path, dtype, 'r', place, shape, order)


def read_archive(path: Path, ratio: int = expansion.MAX_RATIO) -> dict[str, np.ndarray]:
  """The arrays of a `.npz` file by their names. Raises what `read` raises.

  Args:
    path: of the file.
    ratio: how many times as large as the file the arrays may be.
  """
  size = path.stat().st_size
  try:
    with zipfile.ZipFile(path) as archive:
      records = archive.infolist()
      expansion.check(sum(record.file_size for record in records), size, ratio)
      arrays = {r.filename.removesuffix('.npy'): _member(archive, r) for r in records}
  except _BAD_ARCHIVE as error:
    raise ValueError(brief(error)) from error
  if len(arrays) != len(records):
    raise ValueError('two arrays of one name')
  return arrays


def _member(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> np.ndarray:
  # The others unpack as much as they like at a time.
  if record.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
    raise ValueError('an array that is packed in another way than NumPy does it')
  with archive.open(record) as file:
    array = read_array(file, record.file_size)
    if file.read(1):
      raise ValueError(f'{record.filename!r:.80} goes on after its array')
    return array


def read_array(file: BinaryIO, size: int) -> np.ndarray:
  """The array that begins here. Raises ValueError if it is not whole.

  Args:
    file: at the beginning; afterwards at the end of the array.
    size: of the file.
  """
  shape, order, dtype = read_header(file, size)
  flat = np.empty(math.prod(shape), dtype)
  if file.readinto(flat.view(np.uint8)) != flat.nbytes:
    raise ValueError('it was cut')
  if dtype.kind == 'U' and flat.size:
    letters = flat.view(np.dtype('u4').newbyteorder(dtype.byteorder))
    if letters.max() > _LAST_CHARACTER:
      raise ValueError('text that is not Unicode')
  return flat.reshape(shape, order=order)


def read_header(
  file: BinaryIO, size: int
) -> tuple[tuple[int, ...], str, np.dtype[np.generic]]:
  """Shape, order (`C` or `F`) and type of the array that begins here.

  Args:
    file: at the beginning; afterwards at the first value.
    size: of the file, which must hold all values.

  Raises:
    ValueError: if it does not, or the values are no plain ones.
  """
  start = file.read(len(MAGIC) + 2)
  if not start.startswith(MAGIC) or start[len(MAGIC) :] not in _VERSIONS:
    raise ValueError('no array of version 1 or 2')
  form, parse = _VERSIONS[start[len(MAGIC) :]]
  length = file.read(struct.calcsize(form))
  count = int.from_bytes(length, 'little')
  if count > _LONGEST_HEADER:
    raise ValueError(f'a header of {count} bytes')
  header = length + file.read(count)
  try:
    shape, fortran, dtype = parse(io.BytesIO(header), _LONGEST_HEADER)
  except _BAD_HEADER as error:
    raise ValueError(f'a damaged header ({type(error).__name__})') from error
  if dtype.kind not in 'biufcSU' or not dtype.itemsize:
    raise ValueError(f'an array of type {str(dtype)!r:.80}, which is not read')
  if min(shape, default=0) < 0:
    raise ValueError(f'an array of shape {shape!r:.80}')
  left = size - len(start) - len(header)
  # Rows without values cost nothing here, but what is made for each of them does.
  if math.prod(shape) * dtype.itemsize > left or (
    0 in shape and shape[0] > max(size, _FREE_ROWS)
  ):
    raise ValueError(f'{left} bytes for an array of shape {shape!r:.80}: it was cut')
  return tuple(map(int, shape)), 'F' if fortran else 'C', dtype
