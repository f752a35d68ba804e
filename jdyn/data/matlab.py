"""Reads variables of MATLAB files of versions 5 to 7, which run nothing when read.

Files of version 7.3 are HDF5: see `jdyn.data.hdf5`. SciPy reads the values, but makes
room for what a header promises, and follows nesting until the C stack ends. So the
variable's elements are gone through before: they must lie in each other as the format
says, at most `MAX_DEPTH` deep, hold what their sizes promise, and all compressed ones
together unpack to what `jdyn.data.expansion` allows.
"""

import io
import itertools
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from jdyn.data import expansion
from jdyn.data.dataset import DataError
from jdyn.data.files import brief

MAX_DEPTH = 16
"""Of cells and records in each other."""

_HEADER, _VERSION = 128, slice(124, 128)
_VERSIONS = {b'\x00\x01IM': '<', b'\x01\x00MI': '>'}
_ENDS = {'<': 'little', '>': 'big'}
# Types of elements, and classes of arrays.
_INT32, _UINT32, _MATRIX, _COMPRESSED = 5, 6, 14, 15
_CELL, _STRUCT, _CHAR, _NUMBERS = 1, 2, 4, range(6, 16)
_SIZES = {  # Bytes of a value, by type.
  **{1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8},
  **{16: 1, 17: 2, 18: 4},  # Of a letter, at least.
}

# What damaged elements make of SciPy, or of `struct`.
_DAMAGE = (
  AttributeError,
  EOFError,
  LookupError,
  NotImplementedError,
  OSError,
  OverflowError,
  SystemError,
  TypeError,
  ValueError,
  struct.error,
  zlib.error,
)


def read_variable(path: Path, name: str) -> np.ndarray:
  """The variable `name`, without axes of length one.

  A cell array or struct array becomes an array of objects or of records.

  Raises:
    DataError: if the file is absent, damaged or of version 7.3, or lacks the variable.
  """
  from scipy.io import loadmat

  try:
    with path.open('rb') as file:
      element = _find(file, path.stat().st_size, name)
    if element is not None:
      variables = loadmat(io.BytesIO(element), variable_names=[name], squeeze_me=True)
  except _DAMAGE as error:
    raise DataError(
      f'{path}: not readable as a MATLAB file of versions 5 to 7 ({brief(error)}). '
      'Copy or download it again.'
    ) from error
  if element is None or name not in variables:
    raise DataError(f'{path}: no variable {name}. Is this the file that its name says?')
  return np.asarray(variables[name])


def as_integers(values: np.ndarray, where: str) -> np.ndarray:
  """Whole numbers, which MATLAB may keep as floats, as `i64[N]`.

  Raises:
    DataError: if a value is no whole number; it starts with `where`.
  """
  flat = np.ravel(values)
  with np.errstate(invalid='ignore'):  # Infinity is no whole number either.
    if flat.dtype.kind in 'iuf' and (flat % 1 == 0).all():
      return flat.astype(np.int64)
  raise DataError(f'{where} is not all whole numbers. Is this the right file?')


def _find(file: BinaryIO, size: int, name: str) -> bytes | None:
  """A file of one variable, unpacked and found right; None if it is not there."""
  header = file.read(_HEADER)
  if header[_VERSION] not in _VERSIONS:
    raise ValueError('another version')
  order, left = _VERSIONS[header[_VERSION]], expansion.largest(size)
  while tag := file.read(8):
    kind, count = struct.unpack(f'{order}II', tag)
    if count > size - file.tell():
      raise ValueError(f'{count} bytes promised, {size - file.tell()} left')
    element = tag + file.read(count)
    if kind == _COMPRESSED:
      stream = zlib.decompressobj()
      element = stream.decompress(element[8:], left)
      left -= len(element)
      if not stream.eof:
        raise ValueError('a compressed variable that is cut, or too large')
    if _name(element, order) == name.encode('latin1', 'replace'):
      ((_, body),) = _elements(memoryview(element), order)
      _check(body, order)
      return header + element
  return None


def _name(element: bytes, order: str) -> bytes:
  """Of the variable; raises ValueError if it is none."""
  (kind, body), *more = _elements(memoryview(element), order)
  if kind != _MATRIX or more:
    raise ValueError(f'an element of type {kind}, and {len(more)} more')
  parts = _elements(body, order)
  names = [data for _, data in itertools.islice(parts, 2, 3)]
  return bytes(names[0]) if names else b''


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
  """Type and contents of the elements one after the other."""
  place = 0
  while place < len(data):
    kind, size = struct.unpack_from(f'{order}II', data, place)
    start, after = place + 8, place + 8 + size + -size % 8
    if kind >> 16:  # A small one has its size and its contents in these eight bytes.
      kind, size, start, after = kind & 0xFFFF, kind >> 16, place + 4, place + 8
    if after > len(data) or start + size > after:
      raise ValueError('an element that goes on after the one that it is in')
    yield kind, data[start : start + size]
    place = after


def _check(element: memoryview, order: str, depth: int = 0) -> None:
  """Raises ValueError if the contents of an array are not what its header promises."""
  if not element:  # An empty array.
    return
  if depth > MAX_DEPTH:
    raise ValueError(f'arrays in each other, more than {MAX_DEPTH} deep')
  flags, axes, _, *parts = _elements(element, order)
  if (flags[0], len(flags[1]), axes[0]) != (_UINT32, 8, _INT32):
    raise ValueError('an array without class and shape')
  (bits,) = struct.unpack_from(f'{order}I', flags[1])
  shape = struct.unpack(f'{order}{len(axes[1]) // 4}i', axes[1])
  kind, size = bits & 0xFF, math.prod(shape)
  if min(shape, default=0) < 0:
    raise ValueError(f'an array of shape {shape!r:.80}')
  if kind == _STRUCT:
    width, names, *parts = parts
    fields = len(names[1]) // max(int.from_bytes(width[1], _ENDS[order]), 1)
    size *= max(fields, 1)
  if kind in (_CELL, _STRUCT):
    if len(parts) != size or any(part[0] != _MATRIX for part in parts):
      raise ValueError(f'{len(parts)} arrays in one that promises {size}')
    for _, part in parts:
      _check(part, order, depth + 1)
  elif kind == _CHAR or kind in _NUMBERS:
    for part, data in parts:
      found = len(data) // _SIZES.get(part, 1)
      # Letters may have several bytes.
      if part not in _SIZES or (found < size if kind == _CHAR else found != size):
        raise ValueError(f'{found} values of type {part}, and not {size}')
    if len(parts) > 2 or (size and not parts):
      raise ValueError(f'an array of {len(parts)} parts')
  else:
    raise ValueError(f'an array of class {kind}, which is not read')
