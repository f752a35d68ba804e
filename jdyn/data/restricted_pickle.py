"""Pickles of NumPy arrays, read without running anything that they name.

A pickle is a program for a small stack machine, and the machine can import and
call whatever the file asks for. `load_arrays` runs a machine that cannot: of the
op codes it knows those that build plain values; a global is a mere token, and only
the few names below, which every pickled array contains, are tokens; "call" looks
the token up in a table of functions of this module. The result is checked to
consist of plain values. `RestrictedUnpickler` is that machine; a format that builds
its arrays by other names is a subclass with another table.

Memory stays proportional to the file, at most about two hundred times as large where
it is all op codes: a length field that promises more bytes than the file has left is
refused before anything is allocated, memo numbers do not size a table (in the C
machine a file of twenty bytes can claim 64 GiB so), and values that the file shares
are not expanded. Nor are they walked: keys of dicts are plain, since hashing a tuple
of shared or nested tuples takes forever or the whole C stack.
"""

import dataclasses
import math
import pickle
import pickletools
import re
import struct
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from jdyn.data.dataset import DataError
from jdyn.data.files import brief

MAX_BYTES = 16 * 2**30
"""Default limit on the file's size; the largest MultiBench file has 3.7 GiB."""

_MAX_DEPTH = 16
_MAX_RANK = 32
_MAX_SIZE = 2**63 - 1
_LAST_CHARACTER = 0x10FFFF
_PLAIN = str | bytes | int | float | None | np.generic  # A bool is an int.
_DTYPE = re.compile(r'[<>|=]?(b1|[iu][1248]|f[248]|c(8|16)|[SU][1-9]\d*|O8?)')

# Everything that pushes, stores or collects plain values.
_OPCODES = (  # noqa: SIM905
  'PROTO FRAME STOP MARK POP POP_MARK DUP PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET '
  'LONG_BINGET NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 '
  'FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE BINUNICODE8 '
  'SHORT_BINUNICODE BINBYTES BINBYTES8 SHORT_BINBYTES EMPTY_LIST LIST APPEND APPENDS '
  'EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT GLOBAL STACK_GLOBAL'
).split()

_MALFORMED = (
  AssertionError,
  AttributeError,
  EOFError,
  IndexError,
  KeyError,
  OverflowError,
  TypeError,
  ValueError,  # Includes failures to decode text.
  pickle.UnpicklingError,
  struct.error,
)


class RefusedError(Exception):
  """The pickle asks for something that arrays do not need; `run` makes it clear."""


@dataclasses.dataclass(frozen=True, slots=True)
class Global:
  """A name that the file may mention; only a token, never the object it names."""

  name: str


@dataclasses.dataclass(slots=True)
class _DType:
  """A dtype under construction: its code, then its byte order."""

  dtype: np.dtype

  def build(self, state: tuple) -> None:
    # The rest of the state concerns structured dtypes, which the code rules out.
    if state[1] in ('<', '>'):
      self.dtype = self.dtype.newbyteorder(state[1])


@dataclasses.dataclass(slots=True)
class _Array:
  """An array under construction: a NumPy array, or a nested list for objects."""

  value: Any = None

  def build(self, state: tuple) -> None:
    _, shape, dtype, fortran, data = state
    if dtype.dtype.kind == 'O':
      if _size(shape) != len(data) or not isinstance(data, list):
        raise ValueError(f'an object array of shape {shape!r:.80} without its items')
      # Filled by index: `np.array` would look into the items for more dimensions.
      items = np.empty(len(data), object)
      for i, item in enumerate(data):
        items[i] = item
      # The items are in C order even in a pickle that says Fortran.
      self.value = items.reshape(shape).tolist() if data else []
    else:
      self.value = _view(data, dtype.dtype, shape, 'F' if fortran else 'C')


def _size(shape: tuple) -> int:
  if not isinstance(shape, tuple) or len(shape) > _MAX_RANK:
    raise ValueError('an array whose shape is no short tuple')
  if not all(isinstance(n, int) and 0 <= n <= _MAX_SIZE for n in shape):
    raise ValueError('an array whose shape has other things than sizes')
  return math.prod(shape)


def _view(data: str | bytes, dtype: np.dtype, shape: tuple, order: str) -> np.ndarray:
  """The array on top of the file's bytes, without a copy; hence read-only."""
  if isinstance(data, str):  # Bytes that Python 2 wrote.
    data = data.encode('latin1')
  if not isinstance(data, bytes) or len(data) != _size(shape) * dtype.itemsize:
    raise ValueError(f'an array of shape {shape} and type {dtype} with other data')
  if not data:
    return np.empty(shape, dtype)
  if dtype.kind == 'U':
    letters = np.frombuffer(data, np.dtype('u4').newbyteorder(dtype.byteorder))
    if letters.max() > _LAST_CHARACTER:
      raise ValueError('text that is not Unicode')
  return np.frombuffer(data, dtype).reshape(shape, order=order)


def _call_dtype(code: str, *_flags: Any) -> _DType:
  if not _DTYPE.fullmatch(code):
    raise RefusedError(f'dtype {code!r:.40}')
  return _DType(np.dtype(code))


def _call_scalar(dtype: _DType, data: str | bytes) -> Any:
  if dtype.dtype.kind == 'O':
    raise RefusedError('a scalar of object type')
  return _view(data, dtype.dtype, (1,), 'C')[0]


def _call_encode(text: str, encoding: str) -> bytes:
  if encoding != 'latin1':
    raise RefusedError('_codecs.encode with another codec than latin1')
  return text.encode('latin1')


_CALLS = {
  'numpy.dtype': _call_dtype,
  'numpy.core.multiarray._reconstruct': lambda *_subclass_shape_code: _Array(),
  'numpy.core.multiarray.scalar': _call_scalar,
  'numpy.core.numeric._frombuffer': lambda data, dtype, shape, order: _Array(
    _view(data, dtype.dtype, shape, order)
  ),
  '_codecs.encode': _call_encode,
  '__builtin__.bytes': lambda: b'',  # How old protocols write no bytes at all.
}


class _BoundedFile:
  """A file that refuses to read more than it has left."""

  def __init__(self, file: BinaryIO, size: int):
    self._file, self._size = file, size
    self.readline = file.readline

  def read(self, count: int) -> bytes:
    if not 0 <= count <= self._size - self._file.tell():
      raise EOFError(f'{count} bytes promised, {self._size - self._file.tell()} left')
    return self._file.read(count)


def _refuse(name: str) -> Callable[[Any], None]:
  def refuse(_machine: Any) -> None:
    raise RefusedError(f'the op code {name}')

  return refuse


def _dispatch(**own: Callable[[Any], None]) -> dict[int, Callable[[Any], None]]:
  """What the machine does per op code: the parent's, one of `own`, or a refusal."""
  table = {}
  for op in pickletools.opcodes:
    code = ord(op.code)
    if op.name in _OPCODES:
      table[code] = pickle._Unpickler.dispatch[code]
    else:
      table[code] = own.get(op.name.lower(), _refuse(op.name))
  return table


# The Python machine rather than the C one: its op codes can be taken away. It has
# kept this form since Python 3.0, and other packages build on it too.
class RestrictedUnpickler(pickle._Unpickler):
  """The stack machine without imports, calls and instances.

  Attributes:
    calls: what "call" does, by the name that is called.
    tokens: further names, which are only ever arguments.
    stateful: kinds of values that a state may be given to, by their method `build`.
  """

  calls: ClassVar[Mapping[str, Callable]] = _CALLS
  tokens: ClassVar[Collection[str]] = ('numpy.ndarray',)
  stateful: ClassVar[tuple[type, ...]] = (_DType, _Array)

  def __init__(self, file: BinaryIO, size: int):
    """Reads at most `size` bytes of `file`; what Python 2 calls `str` is Latin-1."""
    super().__init__(_BoundedFile(file, size), encoding='latin1')

  def run(self, path: Path) -> Any:
    """The value, finished and checked; `path` is for the error.

    Raises:
      DataError: the pickle is damaged, or asks for what is not in the tables.
    """
    try:
      return _plain(self.load(), {})
    except RefusedError as error:
      raise DataError(
        f'{path}: the pickle contains {error}, which is refused: only arrays and plain '
        'values are read, and no code is run. If you trust the file, rewrite it as a '
        'dict of arrays.'
      ) from error
    except _MALFORMED as error:
      raise DataError(
        f'{path}: truncated, or not a pickle ({type(error).__name__}: {brief(error)}). '
        'Fetch the file again.'
      ) from error

  def find_class(self, module: str, name: str) -> Global:
    """The token for an allowed name; nothing is imported."""
    # NumPy 2 moved `numpy.core`; files of both ages are read.
    full = f'{module}.{name}'.replace('numpy._core.', 'numpy.core.', 1)
    if full not in self.calls and full not in self.tokens:
      raise RefusedError(f'the global {full!r:.80}')
    return Global(full)

  def reduce(self) -> None:
    """The call of a token: the only calls there are."""
    arguments, token = self.stack.pop(), self.stack.pop()
    if not isinstance(token, Global) or token.name not in self.calls:
      raise RefusedError(f'a call of {getattr(token, "name", type(token).__name__)}')
    self.append(self.calls[token.name](*arguments))

  def build(self) -> None:
    """The state of a value under construction."""
    state, target = self.stack.pop(), self.stack[-1]
    if not isinstance(target, self.stateful):
      raise RefusedError(f'a state for a {type(target).__name__}')
    target.build(state)

  def bytearray8(self) -> None:
    """Bytes, read after the size check; the parent's allocates the size claimed."""
    (count,) = struct.unpack('<Q', self.read(8))
    self.append(self.read(count))

  def dict(self) -> None:
    """A dict of the items above the mark."""
    items = self.pop_mark()
    self.append(_with_items({}, items))

  def setitem(self) -> None:
    """One item of a dict."""
    value, key = self.stack.pop(), self.stack.pop()
    _with_items(self.stack[-1], [key, value])

  def setitems(self) -> None:
    """Those above the mark."""
    items = self.pop_mark()
    _with_items(self.stack[-1], items)

  dispatch = _dispatch(
    reduce=reduce,
    build=build,
    bytearray8=bytearray8,
    dict=dict,
    setitem=setitem,
    setitems=setitems,
  )


def _with_items(target: Any, items: list[Any]) -> Any:
  """A dict with further items: keys and values in turn."""
  if not isinstance(target, dict):
    raise ValueError(f'items for a {type(target).__name__}')
  for key, value in zip(items[::2], items[1::2], strict=True):
    if not isinstance(key, _PLAIN):
      raise RefusedError('a dict whose keys are not plain')
    target[key] = value
  return target


def _plain(value: Any, seen: dict[int, Any], depth: int = 0) -> Any:
  """The value with finished arrays in it; each shared part is walked once."""
  if isinstance(value, np.ndarray | _PLAIN):
    return value
  if depth > _MAX_DEPTH:
    raise RefusedError(f'nesting deeper than {_MAX_DEPTH} levels')
  if id(value) not in seen:
    if isinstance(value, _Array) and value.value is not None:
      plain = _plain(value.value, seen, depth + 1)
    elif isinstance(value, list | tuple):
      plain = type(value)(_plain(item, seen, depth + 1) for item in value)
    elif isinstance(value, dict):
      plain = {key: _plain(item, seen, depth + 1) for key, item in value.items()}
    else:
      raise RefusedError(f'a {type(value).__name__} as a value')
    seen[id(value)] = plain
  return seen[id(value)]


def load_arrays(path: Path, *, max_bytes: int = MAX_BYTES) -> Any:
  """The arrays, scalars, strings, lists, tuples and dicts of a pickle file.

  Pickles of Python 2 and 3 and of every protocol are read; what Python 2 calls
  `str` is decoded as Latin-1. Numeric, boolean and string arrays are read-only
  views of the file's bytes; an array of objects (mixed ids, for instance) comes
  back as a nested list of plain values.

  Args:
    path: of the file.
    max_bytes: the largest file that is read.

  Raises:
    DataError: if the file is absent, too large or truncated, or asks for anything
      but arrays and plain values; the message names what it asked for.
  """
  path = Path(path)
  if not path.is_file():
    raise DataError(f'{path}: no such file.')
  size = path.stat().st_size
  if size > max_bytes:
    raise DataError(f'{path}: {size} bytes, more than max_bytes={max_bytes}.')
  with path.open('rb') as file:
    return RestrictedUnpickler(file, size).run(path)
