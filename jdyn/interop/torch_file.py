"""Files of `torch.save`, read without PyTorch and without running anything.

Such a file is a zip archive: `<root>/data.pkl` is a pickle in which every tensor is a
call of one function of PyTorch's, with a shape, strides and the name of a storage, and
`<root>/data/<name>` holds the storage's bytes. The pickle is read by the restricted
machine of `jdyn.data`, which knows that one call beside those of NumPy's scalars and
arrays; records are stored uncompressed, are checked against their CRC and never written
to disk. Storages take the size of the file, and once more for each further type that
the pickle says they have.

Before PyTorch 1.6 it was a sequence, without a checksum: pickles of a magic number, of
the format's version, of the system's sizes, of what was saved, and of the storages'
names; then each storage's length and bytes.
"""

import dataclasses
import math
import struct
import zipfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from pickle import _Unpickler
from typing import Any, BinaryIO, ClassVar

import numpy as np

from jdyn.data.dataset import DataError
from jdyn.data.files import brief
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

_ZIP = b'PK\x03\x04'
_SEQUENCE = [0x1950A86A20F9469CFC6C, 1001]
"""The magic number and the version of the format before PyTorch 1.6."""

# What comes of files that are cut off, damaged or made up.
_DAMAGE = (
  EOFError,
  NotImplementedError,
  OSError,
  OverflowError,
  RuntimeError,
  TypeError,
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
    raise ValueError(
      f'a tensor of shape {brief(shape)} and strides {brief(strides)} at '
      f'{brief(offset)}'
    )
  steps = zip(shape, strides, strict=True)
  last = offset + sum((n - 1) * step for n, step in steps)
  size = math.prod(shape)
  if size and not (last < len(storage.values) >= size):
    raise ValueError(
      f'a tensor of shape {brief(shape)} and strides {brief(strides)} at {offset} of a '
      f'storage of {len(storage.values)} values'
    )
  if not size:
    return np.empty(shape, storage.values.dtype)
  values = storage.values[offset:]
  strides = [step * values.itemsize for step in strides]
  return np.lib.stride_tricks.as_strided(values, shape, strides, writeable=False)


class _TensorUnpickler(RestrictedUnpickler):
  """The machine for the pickle of what was saved."""

  calls: ClassVar[Mapping[str, Callable]] = {
    **RestrictedUnpickler.calls,
    'collections.OrderedDict': lambda: _StateDict(),
    'torch._utils._rebuild_tensor_v2': _tensor,
  }
  tokens: ClassVar = (*RestrictedUnpickler.tokens, *_STORAGES)
  stateful: ClassVar = (*RestrictedUnpickler.stateful, _StateDict)
  dispatch: ClassVar = {
    **RestrictedUnpickler.dispatch,
    _BINPERSID: _Unpickler.dispatch[_BINPERSID],
  }

  def __init__(
    self, file: BinaryIO, size: int, values: Callable[[str, np.dtype], np.ndarray]
  ):
    """Reads `file`, of that size, with the storages' values by name and type."""
    super().__init__(file, size)
    self._values = values
    self._known: dict[tuple[str, str], _Storage] = {}

  def persistent_load(self, name: Any) -> _Storage | None:
    """The storage that a persistent id names."""
    kind, storage, key, _device, count, *view = name
    if (
      kind != 'storage'
      or not isinstance(storage, Global)
      or not isinstance(key, str)
      or view not in ([], [None])
    ):
      raise RefusedError(f'the persistent id {brief(name)}')
    return self.storage(key, storage.name, count)

  def storage(self, key: str, kind: str, count: int) -> _Storage | None:
    """The storage of that name, type and number of values."""
    # Read once: a file of some bytes can name the same storage a million times.
    if (key, kind) not in self._known:
      values = self._values(key, np.dtype(_STORAGES[kind]))
      self._known[key, kind] = _Storage(values)
    known = self._known[key, kind]
    if count != len(known.values):
      raise ValueError(f'storage {key}: {count} promised, {len(known.values)} there')
    return known


class _Survey(_TensorUnpickler):
  """The same machine without storages: it notes which ones there must be."""

  calls: ClassVar = {
    **_TensorUnpickler.calls,
    'torch._utils._rebuild_tensor_v2': lambda *_: None,
  }

  def __init__(self, file: BinaryIO, size: int):
    """Reads `file`, of that size."""
    super().__init__(file, size, lambda *_: np.empty(0))
    self.found: dict[str, tuple[np.dtype, int]] = {}

  def storage(self, key: str, kind: str, count: int) -> None:
    """Notes it."""
    self.found[key] = np.dtype(_STORAGES[kind]), count


class _Archive:
  """The records below the one folder of an archive."""

  def __init__(self, archive: zipfile.ZipFile, size: int):
    """Checks the archive's directory against the `size` of the file."""
    records = archive.infolist()
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
      raise ValueError('a compressed record')
    if sum(record.file_size for record in records) > size:
      raise ValueError('records that are larger than the file')
    # Python makes room for what is said to be packed, too.
    if any(record.compress_size != record.file_size for record in records):
      raise ValueError('a record of two sizes')
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
      raise ValueError(f'no record {name:.80}')
    return self._archive.read(self._records[name])

  def values(self, name: str, dtype: np.dtype) -> np.ndarray:
    """A storage's numbers, in the byte order of this machine."""
    order = '>' if self._big else '<'
    values = np.frombuffer(self.record(f'data/{name}'), dtype.newbyteorder(order))
    return values.astype(dtype, copy=False)


def _is_pickle(name: str) -> bool:
  return name.endswith('/data.pkl') and name.count('/') == 1


class _Sequence:
  """What stands in a file of the older format, and where."""

  def __init__(self, path: Path, file: BinaryIO, size: int):
    """Goes through the file once; `size` is its size."""
    self._file = file

    def read(machine=RestrictedUnpickler):
      return machine(file, size).run(path)

    if [read(), read()] != _SEQUENCE:
      raise ValueError('another magic number or version')
    read()  # Sizes of C's types, which say nothing of the storages.
    start = file.tell()
    survey = _Survey(file, size)
    survey.run(path)
    length = file.tell() - start
    names = read()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
      raise ValueError('no list of the names of storages')
    if sorted(names) != sorted(survey.found):
      raise ValueError(f'{len(survey.found)} storages promised, {len(names)} there')
    self._starts = {}
    for name in names:
      dtype, count = survey.found[name]
      self._starts[name] = file.tell() + 8, count
      if int.from_bytes(file.read(8), 'little') != count:
        raise ValueError(f'storage {name}: {count} values promised, and not there')
      end = file.tell() + count * dtype.itemsize
      if end > size:
        raise EOFError(f'storage {name} is cut off')
      file.seek(end)
    file.seek(start)
    self.program = file.read(length)

  def values(self, name: str, dtype: np.dtype) -> np.ndarray:
    """A storage's numbers, in the byte order of this machine."""
    start, count = self._starts[name]
    self._file.seek(start)
    data = self._file.read(count * dtype.itemsize)
    return np.frombuffer(data, dtype.newbyteorder('<')).astype(dtype, copy=False)


def read_torch(path: Path, *, max_bytes: int = MAX_BYTES) -> Any:
  """The tensors of a file of `torch.save`, in the dicts and lists that hold them.

  Args:
    path: of the file; PyTorch may have written it before 1.6 or later.
    max_bytes: the largest file that is read.

  Returns:
    What was saved: dicts (also for ordered ones), lists, tuples and plain values, and
    NumPy arrays for tensors, in their strides, read-only.

  Raises:
    DataError: if the file is absent, too large, damaged, or asks for anything but
      tensors and plain values.
  """
  path = Path(path)
  if not path.is_file():
    raise DataError(f'{path}: no such file.')
  size = path.stat().st_size
  if size > max_bytes:
    raise DataError(f'{path}: {size} bytes, more than max_bytes={max_bytes}.')
  try:
    with path.open('rb') as file:
      if file.read(len(_ZIP)) == _ZIP:
        with zipfile.ZipFile(file) as archive:
          records = _Archive(archive, size)
          return _load(path, records.record('data.pkl'), records.values)
      file.seek(0)
      sequence = _Sequence(path, file, size)
      return _load(path, sequence.program, sequence.values)
  except DataError:
    raise
  except _DAMAGE as error:
    raise DataError(
      f'{path}: not a whole file of torch.save ({brief(error)}). Fetch it again.'
    ) from error


def _load(
  path: Path, program: bytes, values: Callable[[str, np.dtype], np.ndarray]
) -> Any:
  return _TensorUnpickler(BytesIO(program), len(program), values).run(path)
