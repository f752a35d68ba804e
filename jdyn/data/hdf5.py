"""Reads arrays from an HDF5 file that one need not trust.

Links to other places, virtual datasets and external storage are refused: a data
file names its own bytes, so its hash covers everything that was read.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jdyn.data.dataset import DataError


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
  except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
    # A flipped byte makes h5py raise any of these, not only OSError.
    if cut := re.search(r'truncated file: .*stored_eof = (\d+)', str(error)):
      raise DataError(
        f'{path}: cut off after {path.stat().st_size} of {cut[1]} bytes. '
        'Copy or download it again.'
      ) from error
    raise DataError(
      f'{path}: not readable as HDF5 ({error}). Copy or download it again.'
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
    return np.array(dataset.asstr(errors='replace')[...], dtype=str)
  return dataset[...]


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
  return dataset


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
