"""Files of `torch.save`, read without PyTorch and without running anything.

Such a file is a zip archive: `<root>/data.pkl` is a pickle in which every tensor is a
call of one function of PyTorch's, with a shape, strides and the name of a storage, and
`<root>/data/<name>` holds the storage's bytes. The pickle is read by the restricted
machine of `jdyn.data`, which knows that one call; records are stored uncompressed, are
checked against their CRC and never written to disk.
"""

import dataclasses
import math
import struct
import zipfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from pickle import _Unpickler
from typing import Any, ClassVar

import numpy as np

from jdyn.data.dataset import DataError
from jdyn.data.restricted_pickle import (
  MAX_BYTES,
  Global,
  RefusedError,
  RestrictedUnpickler,
)

_STORAGES = {
  'torch.BoolStorage': '?',
  'torch.ByteStorage': 'u1',
  'torch.CharStorage': 'i1',
  'torch.ShortStorage': 'i2',
  'torch.IntStorage': 'i4',
  'torch.LongStorage': 'i8',
  'torch.HalfStorage': 'f2',
  'torch.FloatStorage': 'f4',
  'torch.DoubleStorage': 'f8',
}

_BINPERSID = ord('Q')

# What zipfile raises on archives that are cut off, damaged or made up.
_DAMAGE = (
  EOFError,
  NotImplementedError,
  OSError,
  RuntimeError,
  ValueError,
  struct.error,
  zipfile.BadZipFile,
)


@dataclasses.dataclass(frozen=True, slots=True)
class _Storage:
  """The values that tensors are views of; of a type that only the archive makes."""

  values: np.ndarray


class _StateDict(dict):
  """An ordered dict; the attributes that modules hang on theirs are dropped."""

  def build(self, state: Any) -> None:
    """Takes the attributes."""


def _tensor(storage: _Storage, offset: int, shape: tuple, strides: tuple, *_) -> Any:
  """A read-only view; requires_grad, hooks and metadata are left out."""
  if not isinstance(storage, _Storage):
    raise ValueError('a tensor without a storage')
  numbers = (offset, *shape, *strides)
  if not all(isinstance(n, int) and n >= 0 for n in numbers):
    raise ValueError(f'a tensor of shape {shape} and strides {strides} at {offset}')
  steps = zip(shape, strides, strict=True)
  last = offset + sum((n - 1) * step for n, step in steps)
  size = math.prod(shape)
  if size and not (last < len(storage.values) >= size):
    raise ValueError(
      f'a tensor of shape {shape} and strides {strides} at {offset} of a storage of '
      f'{len(storage.values)} values'
    )
  if not size:
    return np.empty(shape, storage.values.dtype)
  values = storage.values[offset:]
  strides = [step * values.itemsize for step in strides]
  return np.lib.stride_tricks.as_strided(values, shape, strides, writeable=False)


class _TensorUnpickler(RestrictedUnpickler):
  """The machine for `data.pkl`."""

  calls: ClassVar[Mapping[str, Callable]] = {
    'collections.OrderedDict': lambda: _StateDict(),
    'torch._utils._rebuild_tensor_v2': _tensor,
  }
  tokens: ClassVar = tuple(_STORAGES)
  stateful: ClassVar = (_StateDict,)
  dispatch: ClassVar = {
    **RestrictedUnpickler.dispatch,
    _BINPERSID: _Unpickler.dispatch[_BINPERSID],
  }

  def __init__(self, archive: '_Archive'):
    """Reads the archive's pickle, with storages from the archive."""
    data = archive.record('data.pkl')
    super().__init__(BytesIO(data), len(data))
    self._archive = archive
    self._known: dict[tuple[str, str], _Storage] = {}

  def persistent_load(self, name: Any) -> _Storage:
    """The storage that a persistent id names."""
    kind, storage, key, _device, count = name
    if kind != 'storage' or not isinstance(storage, Global):
      raise RefusedError(f'the persistent id {name!r:.80}')
    # Read once: a file of some bytes can name the same storage a million times.
    if (key, storage.name) not in self._known:
      values = self._archive.values(f'data/{key}', np.dtype(_STORAGES[storage.name]))
      self._known[key, storage.name] = _Storage(values)
    known = self._known[key, storage.name]
    if count != len(known.values):
      raise ValueError(f'storage {key}: {count} promised, {len(known.values)} there')
    return known


class _Archive:
  """The records below the one folder of an archive."""

  def __init__(self, archive: zipfile.ZipFile, size: int):
    """Checks the archive's directory against the `size` of the file."""
    records = archive.infolist()
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
      raise ValueError('a compressed record')
    if sum(record.file_size for record in records) > size:
      raise ValueError('records that are larger than the file')
    self._records = {record.filename: record for record in records}
    if len(self._records) != len(records):
      raise ValueError('two records of one name')
    roots = [name[: -len('data.pkl')] for name in self._records if _is_pickle(name)]
    if len(roots) != 1:
      raise ValueError(f'{len(roots)} records data.pkl')
    self._archive, self._root = archive, roots[0]
    name = f'{self._root}byteorder'  # Files before PyTorch 2.1 have none.
    self._big = name in self._records and self.record('byteorder') == b'big'

  def record(self, name: str) -> bytes:
    """The bytes of one record; raises ValueError if there is none."""
    if (name := self._root + name) not in self._records:
      raise ValueError(f'no record {name}')
    return self._archive.read(self._records[name])

  def values(self, name: str, dtype: np.dtype) -> np.ndarray:
    """A record's numbers, in the byte order of this machine."""
    order = '>' if self._big else '<'
    values = np.frombuffer(self.record(name), dtype.newbyteorder(order))
    return values.astype(dtype, copy=False)


def _is_pickle(name: str) -> bool:
  return name.endswith('/data.pkl') and name.count('/') == 1


def read_torch(path: Path, *, max_bytes: int = MAX_BYTES) -> Any:
  """The tensors of a file of `torch.save`, in the dicts and lists that hold them.

  Args:
    path: of a file that PyTorch 1.6 or a later one wrote.
    max_bytes: the largest file that is read.

  Returns:
    What was saved: dicts (also for ordered ones), lists, tuples and plain values, and
    NumPy arrays for tensors, in their strides, read-only.

  Raises:
    DataError: if the file is absent, too large, damaged, of the format before PyTorch
      1.6, or asks for anything but tensors and plain values.
  """
  path = Path(path)
  if not path.is_file():
    raise DataError(f'{path}: no such file.')
  size = path.stat().st_size
  if size > max_bytes:
    raise DataError(f'{path}: {size} bytes, more than max_bytes={max_bytes}.')
  try:
    with zipfile.ZipFile(path) as archive:
      return _TensorUnpickler(_Archive(archive, size)).run(path)
  except DataError:
    raise
  except _DAMAGE as error:
    raise DataError(
      f'{path}: not a whole zip archive, as torch.save writes it ({error}). Fetch the '
      'file again; if PyTorch before 1.6 wrote it, save it again with a later one.'
    ) from error
