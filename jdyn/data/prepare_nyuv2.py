"""Writes NYU Depth v2 out as images, one file each, in the layout of ESANet.

Silberman et al., 2012, by the recipe of `prepare_dataset.py` of ESANet (Seichter et
al., 2021), which DynMM uses too. Depth in metres becomes whole millimetres by
truncation; 894 object classes become 40, and these 13. The release differs in that

- it loads the whole file of 2.8 GB and copies it; here one image is in memory at a
  time;
- it also writes labels of 894 classes, coloured labels and lists of names and colours,
  which training does not read. They are left out;
- it takes splits and classes as they come, and a depth above 65 m, or one that is not
  a number, turns into any other one. Here these are errors;
- it deletes the file that it has downloaded. Here nothing is downloaded or deleted.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jdyn.data import hdf5, image_files
from jdyn.data.dataset import DataError
from jdyn.data.hashing import sha256_file
from jdyn.data.matlab import as_integers, read_variable
from jdyn.data.preparation import Progress, new_folder, write_manifest

FOLDERS = ('rgb', 'depth', 'depth_raw', 'labels_40', 'labels_13')
"""Of each split."""

# Images and CRC-32 of their numbers as little-endian 16-bit integers.
_PUBLISHED = {'train': (795, 0x953ED470), 'test': (654, 0x3EE0F097)}
_NUM_PUBLISHED = 1449
_NUM_OBJECTS, _NUM_CLASSES, _NUM_GROUPS = 894, 40, 13
# Of the 40 classes; group 0 is void.
_GROUPS = (
  *(12, 5, 6, 1, 4, 9, 10, 12, 13, 6, 8, 6, 13, 10, 6, 13, 6, 7, 7, 5),
  *(7, 3, 2, 6, 11, 7, 7, 7, 7, 7, 7, 6, 7, 7, 7, 7, 7, 7, 6, 7),
)
_TOOLKIT = 'It is in https://github.com/VainF/nyuv2-python-toolkit.'


class Frame(NamedTuple):
  """One example, in the order of axes of images.

  Attributes:
    number: from 1, as MATLAB counts.
    rgb: `u8[H, W, 3]`.
    depth: filled in, in metres, `f[H, W]`.
    depth_raw: as measured, 0 where nothing was.
    objects: object classes 0 to 894, `u16[H, W]`.
  """

  number: int
  rgb: np.ndarray
  depth: np.ndarray
  depth_raw: np.ndarray
  objects: np.ndarray


def read_splits(path: Path, count: int) -> dict[str, np.ndarray]:
  """The images of `train` and `test`, counted from 1, in the order of the file.

  Raises:
    DataError: if some image of 1 to `count` is not in exactly one of them, or the
      1449 images of the dataset are split in another way than the published one.
  """
  splits = {
    split: as_integers(read_variable(path, name), f'{path}: {name}')
    for split, name in (('train', 'trainNdxs'), ('test', 'testNdxs'))
  }
  numbers = np.concatenate([*splits.values()])
  if ((numbers < 1) | (numbers > count)).any():
    raise DataError(
      f'{path}: lists images {numbers.min()} to {numbers.max()} of {count}, which are '
      f'counted from 1. {_TOOLKIT}'
    )
  listed = np.bincount(numbers, minlength=count + 1)[1:]
  if (listed != 1).any():
    first = int(np.argmax(listed != 1))
    raise DataError(
      f'{path}: image {first + 1} is listed {listed[first]} times in train and test '
      f'together, and must be once. {_TOOLKIT}'
    )
  for split, published in _PUBLISHED.items():
    found = len(splits[split]), zlib.crc32(splits[split].astype('<u2').tobytes())
    if count == _NUM_PUBLISHED and found != published:
      raise DataError(
        f'{path}: {split} of {found[0]} images with CRC-32 {found[1]:#x} is not the '
        f'published one of {published[0]} with {published[1]:#x}. {_TOOLKIT}'
      )
  return splits


def read_classes(path: Path) -> np.ndarray:
  """The class, 0 to 40, of each object class 0 to 894: `u8[895]`.

  Raises:
    DataError: if `mapClass` of the file is not such a table.
  """
  return _table(
    read_variable(path, 'mapClass'), _NUM_OBJECTS, _NUM_CLASSES, f'{path}: mapClass'
  )


def read_groups(path: Path | None) -> np.ndarray:
  """The class of 13, or 0, of each of the classes 0 to 40: `u8[41]`.

  Args:
    path: of `class13Mapping.mat`; None stands for what it holds.

  Raises:
    DataError: if `classMapping13.labels13` of the file is not such a table.
  """
  if path is None:
    return np.array([0, *_GROUPS], np.uint8)
  mapping = read_variable(path, 'classMapping13')
  where = f'{path}: classMapping13.labels13'
  if mapping.size != 1 or 'labels13' not in (mapping.dtype.names or ()):
    raise DataError(f'{where} is not there, or not once. {_TOOLKIT}')
  return _table(mapping['labels13'].item(), _NUM_CLASSES, _NUM_GROUPS, where)


def to_millimetres(depth: np.ndarray, where: str) -> np.ndarray:
  """Depth in metres to whole millimetres `u16`, rounded down.

  Raises:
    DataError: if a value is negative, too large or none; it starts with `where`.
  """
  millimetres = depth * 1e3  # In the precision of the file, on which rounding hangs.
  if not ((millimetres >= 0) & (millimetres < 2**16)).all():
    raise DataError(
      f'{where} is not all within 0 to 65.535 m. Copy or download the file again.'
    )
  return millimetres.astype(np.uint16)


def prepare_nyuv2(
  mat: Path,
  splits: Path,
  classes: Path,
  out: Path,
  *,
  classes13: Path | None = None,
  progress: Progress = lambda _what, _done, _total: None,
) -> dict[str, int]:
  """Writes the folder that the source `nyuv2` reads, and its manifest.

  `{train,test}/{rgb,depth,depth_raw,labels_40,labels_13}/%04d.png` by number of the
  image, and `{train,test}.txt` with these numbers. One image is in memory at a time.
  The folder appears under its name only when it is complete.

  Args:
    mat: `nyu_depth_v2_labeled.mat`.
    splits: `splits.mat`.
    classes: `classMapping40.mat`.
    out: the folder to create; it must not exist, or be empty.
    classes13: `class13Mapping.mat`; None stands for what it holds.
    progress: told how far the work is.

  Returns:
    The number of images by split.

  Raises:
    DataError: if `out` has files, or the input is incomplete or damaged.
  """
  with new_folder(out) as folder:
    tables = {'labels_40': read_classes(classes), 'labels_13': read_groups(classes13)}
    count = _count(mat)
    numbers = read_splits(splits, count)
    split_of = {int(n): split for split, part in numbers.items() for n in part}
    for split, part in numbers.items():
      lines = ''.join(f'{number:04d}\n' for number in part)
      (folder / f'{split}.txt').write_text(lines, encoding='utf-8')
      for name in FOLDERS:
        (folder / split / name).mkdir(parents=True)
    # In the order of the file, so that what is compressed together is read once.
    for frame in _frames(mat):
      for name, image in _images(frame, tables, str(mat)).items():
        file = folder / split_of[frame.number] / name / f'{frame.number:04d}.png'
        image_files.write(file, image)
      progress('images', frame.number, count)
    counts = {split: len(part) for split, part in numbers.items()}
    sources = [mat, splits, classes, *([classes13] if classes13 else [])]
    manifest = {
      'counts': counts,
      'sources': {path.name: sha256_file(path) for path in sources},
    }
    write_manifest(folder, manifest, ('h5py', 'opencv-python-headless', 'scipy'))
  return counts


def _table(values: np.ndarray, size: int, largest: int, where: str) -> np.ndarray:
  """`u8[1 + size]` of 1 to `largest`, after a 0 for void."""
  table = as_integers(values, where)
  if len(table) != size or not ((table >= 1) & (table <= largest)).all():
    raise DataError(
      f'{where} has {len(table)} numbers from {table.min(initial=largest)} to '
      f'{table.max(initial=0)}; expected {size} from 1 to {largest}. {_TOOLKIT}'
    )
  return np.array([0, *table], np.uint8)


def _count(mat: Path) -> int:
  with hdf5.open_file(mat) as file:
    return len(_find(file)[0])


def _frames(mat: Path) -> Iterator[Frame]:
  with hdf5.open_file(mat) as file:
    arrays = _find(file)
    for i in range(len(arrays[0])):
      # MATLAB's first axis is the last one of HDF5.
      yield Frame(i + 1, *(array[i].T for array in arrays))


def _find(file: Any) -> list[Any]:
  """`images` `(N, 3, W, H)`, then `depths`, `rawDepths`, `labels` `(N, W, H)`."""
  images = hdf5.find(file, 'images', shape=(None, 3, None, None), kinds='u')
  if images.dtype != np.uint8 or not images.size:
    raise DataError(
      f'{file.filename}: images has shape {images.shape} and type {images.dtype}; '
      'expected pixels of 8 bits. Download the file again.'
    )
  shape = (len(images), *images.shape[2:])
  kinds = {'depths': 'f', 'rawDepths': 'f', 'labels': 'u'}
  return [
    images,
    *(hdf5.find(file, name, shape=shape, kinds=kind) for name, kind in kinds.items()),
  ]


def _images(
  frame: Frame, tables: dict[str, np.ndarray], mat: str
) -> dict[str, np.ndarray]:
  """What is written of a frame, by folder."""
  where = f'{mat}: image {frame.number}'
  if frame.objects.max() > _NUM_OBJECTS:
    raise DataError(
      f'{where} has the label {frame.objects.max()}; there are {_NUM_OBJECTS}. Copy or '
      'download the file again.'
    )
  labels = tables['labels_40'][frame.objects]
  images = (
    frame.rgb,
    to_millimetres(frame.depth, f'{where}: depths'),
    to_millimetres(frame.depth_raw, f'{where}: rawDepths'),
    labels,
    tables['labels_13'][labels],
  )
  return dict(zip(FOLDERS, images, strict=True))
