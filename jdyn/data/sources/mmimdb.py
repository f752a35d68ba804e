"""MM-IMDB: genres of a film from its plot and its poster (Arevalo et al., 2017).

Reads `multimodal_imdb.hdf5` as `make_dataset.py` of johnarevalo/gmu-mmimdb writes
it. Text is the mean word2vec vector of the plot, image the VGG-16 activations of
the poster; neither is normalised. The 12 GB of pixels in the file are not read.

Where a plot has no known word, its mean is over nothing and the row is NaN.
MultiBench lets it through to the loss; here `nan_rows` says what happens.
"""

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from jdyn.data import hdf5, stand_in
from jdyn.data.dataset import DataError, DataSpec, ModalitySpec, Split
from jdyn.data.files import brief, require

_FILE = 'multimodal_imdb.hdf5'
_TEXT, _IMAGE, _NUM_GENRES = 300, 4096, 23
_SPLITS = {'train': 'train', 'valid': 'dev', 'test': 'test'}
_CANONICAL_SIZE = 25959
_CANONICAL = {'train': (0, 15552), 'valid': (15552, 18160), 'test': (18160, 25959)}

# Genres of the stand-in and their shares: a long tail, but not so thin that a small
# file has no film of the last.
_GENRES = {
  'Drama': 0.54,
  'Comedy': 0.33,
  'Romance': 0.21,
  'Thriller': 0.20,
  'Crime': 0.15,
  'Action': 0.14,
  'Adventure': 0.10,
  'Horror': 0.10,
  'Documentary': 0.08,
  'Mystery': 0.08,
  'Sci-Fi': 0.08,
  'Fantasy': 0.08,
  'Family': 0.06,
  'Biography': 0.05,
  'War': 0.05,
  'History': 0.05,
  'Music': 0.05,
  'Animation': 0.05,
  'Musical': 0.05,
  'Western': 0.05,
  'Sport': 0.04,
  'Short': 0.04,
  'Film-Noir': 0.04,
}


@dataclasses.dataclass(frozen=True)
class MMIMDB:
  """MM-IMDB features: `text` of 300 values, `image` of 4,096, and 23 genres.

  Attributes:
    nan_rows: what becomes of films whose text features are all NaN: `zero` (the
      text is zeros), `drop` (the films are left out, of the test split too) or
      `error`. How many there are is logged as a warning.
  """

  layout: ClassVar[str] = f"""\
<root>/{_FILE}  features (N, 300), vgg_features (N, 4096), genres (N, 23),
  imdb_ids (N,), attribute split of the file, target_names of genres
download: https://archive.org/download/mmimdb/{_FILE}
or built by make_dataset.py of https://github.com/johnarevalo/gmu-mmimdb"""
  bundled: ClassVar[bool] = False

  nan_rows: Literal['zero', 'drop', 'error'] = 'zero'

  def __post_init__(self):
    """Raises ValueError for a treatment that does not exist."""
    if self.nan_rows not in ('zero', 'drop', 'error'):
      raise ValueError(
        f"nan_rows={self.nan_rows!r}; expected 'zero', 'drop' or 'error'."
      )

  def spec(self, root: Path) -> DataSpec:
    """Names of the genres are read from the file; raises DataError without them."""
    (path,) = self.files(root)
    with hdf5.open_file(path) as file:
      names = _read_genres(file)
    return DataSpec(
      name='mmimdb',
      task='multilabel',
      modalities={'image': ModalitySpec((_IMAGE,)), 'text': ModalitySpec((_TEXT,))},
      num_outputs=len(names),
      class_names=names,
    )

  def files(self, root: Path) -> list[Path]:
    """The one HDF5 file; raises DataError if it is absent."""
    return require(root, [_FILE], self.layout)

  def load(self, root: Path) -> Mapping[str, Split]:
    """The splits that the file states; raises DataError on a damaged file.

    A file that states none is split at MultiBench's row numbers, if it has the
    25,959 films that they were made for.
    """
    (path,) = self.files(root)
    with hdf5.open_file(path) as file:
      text = hdf5.read(file, 'features', shape=(None, _TEXT), kinds='f')
      size = len(text)
      image = hdf5.read(file, 'vgg_features', shape=(size, _IMAGE), kinds='f')
      genres = hdf5.read(file, 'genres', shape=(size, _NUM_GENRES), kinds='iub')
      ids = hdf5.read(file, 'imdb_ids', shape=(size,), kinds='SO')
      ranges = _read_ranges(file, size)
    text = text.astype(np.float32, copy=False)
    unknown = np.isnan(text).all(axis=1)
    if unknown.any():
      self._report(path, int(unknown.sum()), ids[np.argmax(unknown)])
    if self.nan_rows == 'zero':
      text[unknown] = 0
    films = Split(
      inputs={'image': image.astype(np.float32, copy=False), 'text': text},
      label=genres.astype(np.float32),
      ids=ids,
    )
    splits = {
      name: films.select(slice(start, stop)) for name, (start, stop) in ranges.items()
    }
    if self.nan_rows == 'drop' and unknown.any():
      for name, (start, stop) in ranges.items():
        splits[name] = splits[name].select(np.flatnonzero(~unknown[start:stop]))
    return splits

  def write_stand_in(self, root: Path, seed: int) -> None:
    """640 films; the image shows the genres of more films than the text does."""
    import h5py

    rng = np.random.default_rng(seed)
    size = 640
    genres = rng.random((size, _NUM_GENRES)) < np.array([*_GENRES.values()])
    text = stand_in.view(rng, genres, _TEXT, clear=0.65, noise=2.0)
    image = stand_in.view(rng, genres, _IMAGE, clear=0.95, noise=4.0)
    text[size // 2] = np.nan  # As in the real file: a plot without a known word.
    borders = {'train': (0, 384), 'dev': (384, 448), 'test': (448, size)}
    with h5py.File(root / _FILE, 'w') as file:
      file['features'] = text
      file['vgg_features'] = np.maximum(image, 0)  # Rectified, as VGG's are.
      file['genres'] = genres.astype(np.int32)
      file['imdb_ids'] = np.array([f'{row:07d}' for row in range(size)], 'S7')
      file['genres'].attrs['target_names'] = json.dumps([*_GENRES])
      file.attrs['split'] = _fuel_split(borders, ('features', 'vgg_features', 'genres'))

  def _report(self, path: Path, count: int, first: str) -> None:
    message = (
      f'{path}: features of {count} films are all NaN (no known word in the plot), '
      f'the first is {first}'
    )
    if self.nan_rows == 'error':
      raise DataError(f"{message}. Choose nan_rows='zero' or 'drop'.")
    logging.warning('%s; nan_rows=%s.', message, self.nan_rows)


def _fuel_split(
  borders: Mapping[str, tuple[int, int]], sources: tuple[str, ...]
) -> np.ndarray:
  """Splits as Fuel's `H5PYDataset` states them: one row per split and source.

  Args:
    borders: first row and the row after the last, by split.
    sources: names of the datasets that are split so.
  """
  import h5py

  dtype = np.dtype(
    [
      ('split', 'S5'),
      ('source', 'S12'),
      ('start', np.int64),
      ('stop', np.int64),
      ('indices', h5py.ref_dtype),
      ('available', np.bool_),
      ('comment', 'S1'),
    ]
  )
  rows = [
    (split.encode(), source.encode(), start, stop, h5py.Reference(), True, b'.')
    for split, (start, stop) in borders.items()
    for source in sources
  ]
  return np.array(rows, dtype)


def _read_genres(file: Any) -> tuple[str, ...]:
  """Names of the label columns."""
  hdf5.read(file, 'genres', shape=(None, _NUM_GENRES))
  where = f'{file.filename}: attribute target_names of genres'
  try:
    names = json.loads(hdf5.attribute(file['genres'], 'target_names'))
  except DataError:
    raise
  except (RecursionError, ValueError, TypeError) as error:
    raise DataError(
      f'{where} is not readable ({brief(error)}); it lists the names of the genres as '
      'JSON. Download the file again.'
    ) from error
  if (
    not isinstance(names, list)
    or not all(isinstance(name, str) for name in names)
    or (len(set(names)) != _NUM_GENRES)
  ):
    raise DataError(f'{where} does not hold {_NUM_GENRES} names: {brief(names)}.')
  return tuple(names)


def _read_ranges(file: Any, size: int) -> dict[str, tuple[int, int]]:
  """First row and the row after the last of each split."""
  where = f'{file.filename}: attribute split'
  if 'split' not in file.attrs:
    if size == _CANONICAL_SIZE:
      return _CANONICAL
    raise DataError(
      f'{where} is missing, and with {size} films instead of {_CANONICAL_SIZE} the '
      'published row numbers do not apply. Write the attribute, as Fuel does.'
    )
  table = np.asarray(hdf5.attribute(file, 'split'))
  if not {'split', 'source', 'start', 'stop'} <= set(table.dtype.names or ()):
    raise DataError(
      f'{where} has type {table.dtype}; expected columns split, source, start and '
      'stop, as Fuel writes them. Download the file again.'
    )
  stated = {
    (_text(row['split']), _text(row['source'])): (int(row['start']), int(row['stop']))
    for row in table
    if not ('indices' in table.dtype.names and row['indices'])
  }
  ranges = {}
  for name, theirs in _SPLITS.items():
    found = {stated.get((theirs, s)) for s in ('features', 'vgg_features', 'genres')}
    start, stop = (found.pop() if len(found) == 1 else None) or (0, 0)
    if not 0 <= start < stop <= size:
      raise DataError(
        f'{where} gives no common range of rows within 0 to {size} for {theirs} of '
        'features, vgg_features and genres. Download the file again.'
      )
    ranges[name] = start, stop
  return ranges


def _text(value: Any) -> str:
  return value.decode() if isinstance(value, bytes) else str(value)
