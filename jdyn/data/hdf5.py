"""Reads arrays from an HDF5 file that one need not trust.

Links to other places, virtual datasets and external storage are refused: a data
file names its own bytes, so its hash covers everything that was read.

A dataset may have as many bytes as `jdyn.data.expansion` allows for its file, whatever
it is filled or packed with; a chunk unpacks to no more than its place in the dataset
has, and a text has at most `LONGEST_TEXT` characters, of which sixteen are in memory
at a time before they are counted. libhdf5 reads the rest of the file, and is C.
"""

import contextlib
import math
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jdyn.data import expansion
from jdyn.data.dataset import DataError
from jdyn.data.files import brief, text_array
from jdyn.data.hdf5_heap import check_heaps

_DEFLATE, _SHUFFLE, _FLETCHER32, _LZF = 1, 2, 3, 32000  # Numbers of HDF5's filters.
_OVERHEAD = 2**12  # Bytes by which a chunk that cannot be packed may grow, and more.
_REFERENCE = 8  # Bytes of a reference in the file.
_BLOCK = 2**20
_TEXTS = 16
_LONGEST_ATTRIBUTE = 2**20

# A flipped byte makes h5py raise any of these, not only OSError.
_DAMAGE = (
  AttributeError,
  IndexError,
  KeyError,
  OSError,
  OverflowError,
  RuntimeError,
  SystemError,
  TypeError,
  ValueError,
)


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[Any]:
  """Opens `path` for reading as an `h5py.File`.

  Raises:
    DataError: if it is no HDF5 file, or a truncated one, or a read fails.
  """
  import h5py

  try:
    with h5py.File(path, 'r') as file:
      yield file
  except DataError:
    raise
  except _DAMAGE as error:
    if cut := re.search(r'truncated file: .*stored_eof = (\d+)', str(error)):
      raise DataError(
        f'{path}: cut off after {path.stat().st_size} of {cut[1]} bytes. '
        'Copy or download it again.'
      ) from error
    raise DataError(
      f'{path}: not readable as HDF5 ({brief(error)}). Copy or download it again.'
    ) from error


def children(file: Any, name: str = '') -> list[str]:
  """Names in the group `name` of the file, sorted.

  Raises:
    DataError: if it is absent, a link or not a group.
  """
  import h5py

  node = _resolve(file, name) if name else file
  if not isinstance(node, h5py.Group):
    raise DataError(f'{file.filename}: {name} is not a group. Check the layout.')
  return sorted(node, key=str)


def read(
  file: Any, name: Any, *, shape: tuple[int | None, ...] | None = None, kinds: str = ''
) -> np.ndarray:
  """The whole dataset `name`, after its shape and type were found right: see `find`."""
  import h5py

  dataset = find(file, name, shape=shape, kinds=kinds)
  if h5py.check_string_dtype(dataset.dtype) is not None:
    return _texts(file, dataset)
  return dataset[...]


def attribute(node: Any, name: str) -> Any:
  """An attribute of the file or of a dataset.

  Raises:
    DataError: if it is absent, larger than a megabyte, or has many texts of any length.
  """
  import h5py

  where = (
    f'{node.file.filename}: attribute {name} of {node.name.strip("/") or "the file"}'
  )
  if name not in node.attrs:
    raise DataError(f'{where} is missing. Download the file again.')
  found = node.attrs.get_id(name)
  # Values of any length are places in the file, and all may be the same place.
  columns = found.dtype.fields or {'': (found.dtype, 0)}
  free = any(
    dtype.kind == 'O' and not h5py.check_ref_dtype(dtype)
    for dtype, *_ in columns.values()
  )
  if found.get_storage_size() > _LONGEST_ATTRIBUTE or (free and found.shape):
    raise DataError(
      f'{where} is of shape {found.shape} and type {found.dtype!s:.80}, too much for '
      'an attribute. Is this the file that its name says?'
    )
  if free:
    _check_heaps(node.file)
  return node.attrs[name]


def _check_heaps(file: Any) -> None:
  try:
    check_heaps(Path(file.filename))
  except ValueError as error:
    raise DataError(
      f'{file.filename}: damaged, with {error}. Copy or download it again.'
    ) from error


def check_size(file: Any, names: Iterable[str]) -> None:
  """Raises DataError if what has these names is too large together.

  A file can have the same dataset under many of them.
  """
  found = [_resolve(file, name) for name in names]
  sizes = [getattr(each, 'nbytes', 0) for each in found]
  _check_bytes(file, sum(sizes), 'it')


def _check_bytes(file: Any, contents: int, what: str) -> None:
  try:
    expansion.check(contents, Path(file.filename).stat().st_size)
  except ValueError as error:
    raise DataError(f'{file.filename}: {what} has {error}.') from error


def _texts(file: Any, dataset: Any) -> np.ndarray:
  """Texts of one axis, after the longest was found not too long."""
  where = f'{file.filename}: {dataset.name}'
  if dataset.ndim > 1:
    raise DataError(f'{where} has texts of shape {dataset.shape}; expected one axis.')
  _check_heaps(file)
  rows = dataset.asstr(errors='replace')
  found: list[str] = []
  for start in range(0, dataset.size, _TEXTS):
    part = np.ravel(rows[start : start + _TEXTS] if dataset.ndim else rows[()])
    text_array(part, where)
    found += part.tolist()
  return text_array(found, where).reshape(dataset.shape)


def references(file: Any, name: str) -> list[Any]:
  """What the cells of `name` refer to, each for `find`.

  MATLAB's version 7.3 files keep cell arrays, and the fields of struct arrays, as
  datasets of such references.

  Raises:
    DataError: if it is absent, a link or of another type.
  """
  import h5py

  dataset = _resolve(file, name)
  if (
    not isinstance(dataset, h5py.Dataset)
    or h5py.check_ref_dtype(dataset.dtype) is not h5py.Reference
    or dataset.is_virtual
    or dataset.external
    or dataset.size * _REFERENCE > file.id.get_filesize()
  ):
    raise DataError(
      f'{file.filename}: {name} holds no references. Is this the file that its name '
      'says?'
    )
  return dataset[...].ravel().tolist()


def find(
  file: Any, name: Any, *, shape: tuple[int | None, ...] | None = None, kinds: str = ''
) -> Any:
  """The dataset `name`, unread, after its shape and type were found right.

  Indexing the dataset reads that part of it, and no more.

  Args:
    file: from `open_file`.
    name: path of the dataset in the file, or one of its `references`.
    shape: that it must have; None stands for any size, or for any shape.
    kinds: NumPy kinds that it may have (`fiubS`, and `O` for text); any if empty.

  Raises:
    DataError: if it is absent, a link, empty of bytes, or of another shape or type.
  """
  import h5py

  dataset = _resolve(file, name) if isinstance(name, str) else file[name]
  where = f'{file.filename}: {name if isinstance(name, str) else dataset.name}'
  if not isinstance(dataset, h5py.Dataset):
    raise DataError(f'{where} is a group, not a dataset. Check the layout.')
  if dataset.is_virtual or dataset.external:
    raise DataError(
      f'{where} keeps its bytes in other files. Write them into this one.'
    )
  if shape is not None and not _fits(dataset.shape, shape):
    wanted = '(' + ', '.join('N' if n is None else str(n) for n in shape) + ')'
    raise DataError(
      f'{where} has shape {dataset.shape} instead of {wanted}. '
      'Is this the file that its name says?'
    )
  if dataset.size and not dataset.id.get_storage_size():
    raise DataError(
      f'{where} was declared but never written; its writer must have been interrupted. '
      'Write or download the file again.'
    )
  kind = dataset.dtype.kind
  is_text = h5py.check_string_dtype(dataset.dtype) is not None
  if (kinds and kind not in kinds) or (kind == 'O' and not is_text):
    raise DataError(
      f'{where} has type {dataset.dtype}, which is not expected here. '
      'Write it again as plain numbers.'
    )
  _check_bytes(file, dataset.size * dataset.dtype.itemsize, dataset.name)
  if dataset.chunks:
    _check_chunks(file, dataset)
  return dataset


def _check_chunks(file: Any, dataset: Any) -> None:
  """Refuses filters that unpack more than a chunk, before they do."""
  where = f'{file.filename}: {dataset.name}'
  options = dataset.id.get_create_plist()
  filters = [options.get_filter(i)[0] for i in range(options.get_nfilters())]
  known = {_DEFLATE, _SHUFFLE, _FLETCHER32, _LZF}
  if len(set(filters)) < len(filters) or not known.issuperset(filters):
    raise DataError(
      f'{where} is packed by the filters {filters!r:.80}; gzip or lzf, shuffle and '
      'fletcher32 are read, each once. Write it again with these.'
    )
  size = math.prod(dataset.chunks) * dataset.dtype.itemsize
  _check_bytes(file, size, f'a chunk of {dataset.name}')
  if _DEFLATE not in filters:
    return
  limit = expansion.largest(file.id.get_filesize())

  def check(chunk: Any) -> None:
    # libhdf5 unpacks to the end of the stream, wherever that is.
    wrong = chunk.size > size * 1.1 + _OVERHEAD
    if not wrong and chunk.size * expansion.DEFLATE_RATIO > limit:
      _, data = dataset.id.read_direct_chunk(chunk.chunk_offset)
      wrong = not _inflates_to(data, size)
    if wrong:
      raise DataError(
        f'{where}: the chunk at {chunk.chunk_offset} unpacks to more than {size} '
        'bytes. Copy or download the file again.'
      )

  dataset.id.chunk_iter(check)


def _inflates_to(data: bytes, size: int) -> bool:
  """Whether a stream has no more bytes than that."""
  stream, found = zlib.decompressobj(), 0
  while found <= size and not stream.eof and data:
    found += len(stream.decompress(data, _BLOCK))
    data = stream.unconsumed_tail
  return found <= size


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
  return len(shape) == len(wanted) and all(
    want in (None, size) for want, size in zip(wanted, shape, strict=True)
  )


def _resolve(file: Any, name: str) -> Any:
  """The object at `name`, reached over hard links only."""
  import h5py

  node = file
  for part in name.split('/'):
    link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
    if link is None:
      raise DataError(
        f'{file.filename}: no dataset {name}; there are {[*file]}. '
        'Check the file and the modality names.'
      )
    if not isinstance(link, h5py.HardLink):
      raise DataError(
        f'{file.filename}: {name} is a link to another place. Copy the data itself.'
      )
    node = node[part]
  return node
