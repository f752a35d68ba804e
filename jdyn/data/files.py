"""What the file-reading sources share: is it all there, and is it a table."""

import csv
import reprlib
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jdyn.data.dataset import DataError

LONGEST_TEXT = 1000
"""Characters of an id."""

_LISTED = 8  # Of the missing files, by name.
_SHOWN = 120  # Characters of a name, a value or another's error in an error.


def require(root: Path, names: Iterable[str], layout: str) -> list[Path]:
  """Paths of the named files under `root`.

  Raises:
    DataError: if any is absent; the message lists the first of them and shows `layout`.
  """
  paths = [root / name for name in names]
  missing = [path for path in paths if not _is_file(path)]
  if missing:
    listed = ', '.join(_short(str(path)) for path in missing[:_LISTED])
    more = f' and {len(missing) - _LISTED} more' if len(missing) > _LISTED else ''
    raise DataError(f'Missing {listed}{more}. Expected layout:\n{layout}')
  return paths


def _is_file(path: Path) -> bool:
  try:
    return path.is_file()
  except OSError:  # Such a long name can belong to no file.
    return False


def _short(text: str) -> str:
  """The end of a text, where it is long: of paths that tells most."""
  return text if len(text) <= _SHOWN else f'...{text[-_SHOWN:]}'


def read_table(path: Path, columns: int | None = None) -> np.ndarray:
  """A comma-separated table of numbers without a header: `f64[rows, columns]`.

  In memory it takes 8 bytes per number, at most eight times its file.

  Args:
    path: of the csv file in UTF-8; numbers may be quoted.
    columns: how many there must be; any number if None.

  Raises:
    DataError: on an empty file, ragged rows, a cell that is no number, or another
      number of columns.
  """
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # An empty file is an error below.
      table = np.loadtxt(
        path, delimiter=',', quotechar='"', comments=None, ndmin=2, encoding='utf-8'
      )
  except (EOFError, OSError, ValueError, zlib.error) as error:
    message = str(error).split(';')[0][:_SHOWN]
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


def read_columns(path: Path, names: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
  """The named columns of a csv file with a header: line numbers and cells.

  One line is in memory at a time, and of that only what is asked for: a table of a
  million columns and a million short rows is a file of a few megabytes. What a short
  row lacks is ''.

  Raises:
    DataError: if it is no such table, is not UTF-8 or lacks a column; while it is read.
  """
  try:
    with path.open(encoding='utf-8', newline='') as file:
      lines = csv.reader(file, strict=True)
      header = next(lines, [])
      if absent := [name for name in names if name not in header]:
        raise DataError(f'{path}: no column {absent}. Is it the right table?')
      places = [header.index(name) for name in names]
      for row in lines:
        if row:
          yield lines.line_num, [row[i] if i < len(row) else '' for i in places]
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise DataError(
      f'{path}: not a table of comma-separated values ({error}). Copy it again.'
    ) from error


def brief(value: Any) -> str:
  """A value or an error in an error: printable, short, and soon there."""
  text = str(value) if isinstance(value, str | Exception) else reprlib.repr(value)
  shown = ''.join(c if c.isprintable() else '?' for c in text[:_SHOWN])
  return shown + ('...' if len(text) > _SHOWN else '')


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


def text_array(texts: Sequence[str], where: str) -> np.ndarray:
  """Texts as an array, in which each takes as much memory as the longest.

  Raises:
    DataError: if one is longer than `LONGEST_TEXT`; it starts with `where`.
  """
  if (longest := max(map(len, texts), default=0)) > LONGEST_TEXT:
    raise DataError(
      f'{where}: a text of {longest} characters; {LONGEST_TEXT} are read. Shorten it.'
    )
  return np.array(texts, str)


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
