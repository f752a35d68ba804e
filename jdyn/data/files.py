"""What the file-reading sources share: is it all there, and is it a table."""

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from jdyn.data.dataset import DataError

_LISTED = 8  # Of the missing files, by name.


def require(root: Path, names: Iterable[str], layout: str) -> list[Path]:
  """Paths of the named files under `root`.

  Raises:
    DataError: if any is absent; the message lists the first of them and shows `layout`.
  """
  paths = [root / name for name in names]
  missing = [path for path in paths if not path.is_file()]
  if missing:
    listed = ', '.join(str(path) for path in missing[:_LISTED])
    more = f' and {len(missing) - _LISTED} more' if len(missing) > _LISTED else ''
    raise DataError(f'Missing {listed}{more}. Expected layout:\n{layout}')
  return paths


def read_table(path: Path, columns: int | None = None) -> np.ndarray:
  """A comma-separated table of numbers without a header: `f64[rows, columns]`.

  Args:
    path: of the csv file; numbers may be quoted.
    columns: how many there must be; any number if None.

  Raises:
    DataError: on an empty file, ragged rows, a cell that is no number, or another
      number of columns.
  """
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # An empty file is an error below.
      table = np.loadtxt(path, delimiter=',', quotechar='"', comments=None, ndmin=2)
  except (ValueError, UnicodeDecodeError) as error:
    message = str(error).split(';')[0]
    raise DataError(
      f'{path}: not a table of numbers ({message}). Copy the file again; it may be cut.'
    ) from error
  if not table.size:
    raise DataError(f'{path}: empty. Copy the file again.')
  if columns is not None and table.shape[1] != columns:
    raise DataError(
      f'{path}: {table.shape[1]} columns instead of {columns}. '
      'Is this the file that its name says?'
    )
  return table


def read_labels(path: Path, num_classes: int) -> np.ndarray:
  """A csv column of class numbers, integers or whole floats: `i32[rows]`.

  Raises:
    DataError: if a value is not a whole number from 0 to `num_classes - 1`.
  """
  return as_classes(read_table(path, columns=1)[:, 0], num_classes, str(path))


def row_ids(split: str, size: int) -> np.ndarray:
  """Ids for examples without any: the split that the file gives, and the row in it."""
  return np.array([f'{split}/{row:05d}' for row in range(size)])


def as_ids(values: np.ndarray, where: str) -> np.ndarray:
  """Names or numbers of examples as text; `where` is for the error."""
  if values.dtype.kind != 'S':
    return values.astype(str)
  try:
    return np.char.decode(values, 'utf-8')
  except UnicodeDecodeError as error:
    raise DataError(
      f'{where}: ids are not UTF-8 ({error}). Write them again.'
    ) from error


def as_classes(values: np.ndarray, num_classes: int, where: str) -> np.ndarray:
  """Whole numbers from 0 to `num_classes - 1` as `i32`; `where` is for the error."""
  wrong = ~np.isin(values, np.arange(num_classes))
  if wrong.any():
    row = int(np.argmax(wrong))
    raise DataError(
      f'{where}: row {row} is {values[row]}; {wrong.sum()} of {len(values)} values are '
      f'not whole numbers from 0 to {num_classes - 1}. Check that it is the right file.'
    )
  return np.asarray(values, np.int32)
