"""Puts the parts of SUN RGB-D together in the layout of ESANet.

Song et al., 2015, by the recipe of `prepare_dataset.py` of ESANet (Seichter et al.,
2021): `SUNRGBDMeta.mat` says which image the labels in `SUNRGBD2Dseg.mat` belong to,
and `allsplit.mat` which part the image is in. The release differs in that

- an image that the split does not list is a test image, whatever the list of test
  images says. Here it is an error;
- labels that are not of the size of their image, or missing depth, are found when
  training gets there, or never. Here they are errors;
- it downloads and unpacks the archives, and deletes them. Here both must be unpacked,
  and stay as they are.
"""

import os
import posixpath
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jdyn.data import hdf5
from jdyn.data.dataset import DataError
from jdyn.data.files import require
from jdyn.data.hashing import sha256_file
from jdyn.data.image_files import DEPTH, RGB, shape_of
from jdyn.data.matlab import read_variable
from jdyn.data.preparation import Progress, new_folder, write_manifest

_META = 'Metadata/SUNRGBDMeta.mat'
_LABELS = 'Metadata/SUNRGBD2Dseg.mat'
_SPLIT = 'traintestSUNRGBD/allsplit.mat'
_TOOLBOX = f"""\
  SUNRGBDtoolbox/{_META}
  SUNRGBDtoolbox/{_LABELS}
  SUNRGBDtoolbox/{_SPLIT}
of https://rgbd.cs.princeton.edu/data/SUNRGBDtoolbox.zip"""
_ARCHIVE = 'https://rgbd.cs.princeton.edu/data/SUNRGBD.zip'
_ROOT = '/n/fs/sun3d/data/SUNRGBD/'  # What all paths in the toolbox begin with.
_PUBLISHED = {'train': 5285, 'test': 5050}
_NUM_CLASSES = 37


class Example(NamedTuple):
  """Where an image lies, relative to the folder of the dataset.

  Attributes:
    split: `train` or `test`.
    rgb: the image in colour.
    depth: with holes filled in.
    depth_raw: as measured.
    label: what is written for it.
  """

  split: str
  rgb: str
  depth: str
  depth_raw: str
  label: str

  @property
  def images(self) -> tuple[str, str, str]:
    """Those of its files that are in the archive of images."""
    return self.rgb, self.depth, self.depth_raw


def read_examples(meta: Path, split: Path) -> list[Example]:
  """The images in the order of the labels.

  Args:
    meta: `SUNRGBDMeta.mat`.
    split: `allsplit.mat`.

  Raises:
    DataError: if a path leads out of the dataset, an image is not in exactly one
      part, or the 10335 images of the dataset are not split 5285 to 5050.
  """
  parts = {
    name: {
      _folder(path, split) for path in np.ravel(read_variable(split, f'all{name}'))
    }
    for name in _PUBLISHED
  }
  records = np.ravel(read_variable(meta, 'SUNRGBDMeta'))
  fields = ('rgbpath', 'rgbname', 'depthname')
  if absent := sorted({*fields} - {*(records.dtype.names or ())}):
    raise DataError(f'{meta}: SUNRGBDMeta has no {absent}. Expected:\n{_TOOLBOX}')
  examples = []
  for path, rgb, depth in zip(*(records[field] for field in fields), strict=True):
    folder = posixpath.dirname(posixpath.dirname(_folder(path, meta)))
    found = [name for name, folders in parts.items() if folder in folders]
    if len(found) != 1:
      raise DataError(
        f'{split}: {folder} is in {found or "neither part"}; it must be in train or '
        f'test. Expected:\n{_TOOLBOX}'
      )
    files = {
      'image': _name(rgb, meta),
      'depth_bfx': _name(depth, meta),
      'depth': _name(depth, meta),
      'label': 'label.npy',
    }
    paths = [f'{folder}/{kind}/{name}' for kind, name in files.items()]
    examples.append(Example(*found, *paths))
  if len({example.label for example in examples}) < len(examples):
    raise DataError(f'{meta}: a folder is listed twice. Expected:\n{_TOOLBOX}')
  counts = _count(examples)
  if len(examples) == sum(_PUBLISHED.values()) and counts != _PUBLISHED:
    raise DataError(
      f'{split}: {counts} images; published are {_PUBLISHED}. Expected:\n{_TOOLBOX}'
    )
  return examples


def prepare_sunrgbd(
  images: Path,
  toolbox: Path,
  out: Path,
  *,
  progress: Progress = lambda _what, _done, _total: None,
) -> dict[str, int]:
  """Writes the folder that the source `sunrgbd` reads, and its manifest.

  `{train,test}_{rgb,depth,label}.txt` with paths relative to the folder; the images,
  hard-linked, or copied where that is impossible (on another disk); and beside each
  `label/label.npy`, `u8[H, W]`, 0 for void and 1 to 37. A hard link shares its bytes
  with the original: whoever edits one edits both. One label is in memory at a time.
  The folder appears under its name only when it is complete.

  Args:
    images: the unpacked `SUNRGBD`, with folders `kv1`, `kv2`, `realsense`, `xtion`.
    toolbox: the unpacked `SUNRGBDtoolbox`.
    out: the folder to create; it must not exist, or be empty.
    progress: told how far the work is.

  Returns:
    The number of images by split, and of files `linked` and `copied`.

  Raises:
    DataError: if `out` has files, or the input is incomplete or damaged.
  """
  meta, seg, split = require(toolbox, (_META, _LABELS, _SPLIT), _TOOLBOX)
  with new_folder(out) as folder:
    examples = read_examples(meta, split)
    _require_images(images, examples)
    linked = 0
    for i, label in enumerate(_labels(seg, len(examples))):
      example = examples[i]
      _check_sizes(images, example, label, f'{seg}: label {i + 1}')
      for path in example.images:
        linked += _link(images / path, folder / path)
      target = folder / example.label
      target.parent.mkdir()
      np.save(target, label)
      progress('images', i + 1, len(examples))
    _write_lists(folder, examples)
    files = sum(len(example.images) for example in examples)
    counts = _count(examples) | {'linked': linked, 'copied': files - linked}
    sources = {path.name: sha256_file(path) for path in (meta, seg, split)}
    manifest = {'counts': counts, 'sources': sources}
    write_manifest(folder, manifest, ('h5py', 'scipy'))
  return counts


def _count(examples: Sequence[Example]) -> dict[str, int]:
  splits = [example.split for example in examples]
  return {split: splits.count(split) for split in _PUBLISHED}


def _folder(path: object, where: Path) -> str:
  """A path of the toolbox, relative to the dataset."""
  whole = posixpath.normpath(path) if isinstance(path, str) else ''
  if not whole.startswith(_ROOT) or not whole.isprintable():
    raise DataError(
      f'{where}: {path!r:.200} is no path under {_ROOT}. Expected:\n{_TOOLBOX}'
    )
  return whole.removeprefix(_ROOT)


def _name(name: object, where: Path) -> str:
  """The name of a file, which must not be a path to somewhere else."""
  if (
    not isinstance(name, str)
    or not name.strip('.')
    or '/' in name
    or not name.isprintable()
  ):
    raise DataError(f'{where}: {name!r:.200} names no file. Expected:\n{_TOOLBOX}')
  return name


def _require_images(root: Path, examples: Sequence[Example]) -> None:
  """Before hours of work, not after."""
  paths = [path for example in examples for path in example.images]
  missing = [path for path in paths if not (root / path).is_file()]
  if missing:
    raise DataError(
      f'{root}: {len(missing)} of {len(paths)} images are missing, first {missing[0]}. '
      f'Give the folder SUNRGBD, unpacked from {_ARCHIVE}.'
    )


def _labels(path: Path, size: int) -> Iterator[np.ndarray]:
  """The labels `u8[H, W]`, one after the other."""
  with hdf5.open_file(path) as file:
    cells = hdf5.references(file, 'SUNRGBD2Dseg/seglabel')
    if len(cells) != size:
      raise DataError(
        f'{path}: labels of {len(cells)} images, but {_META} lists {size}. '
        f'Expected:\n{_TOOLBOX}'
      )
    for number, cell in enumerate(cells, 1):
      values = hdf5.read(file, cell, shape=(None, None), kinds='uif').T
      with np.errstate(invalid='ignore'):  # What is no number differs below.
        label = np.ascontiguousarray(values, np.uint8)
      if (label != values).any() or label.max(initial=0) > _NUM_CLASSES:
        raise DataError(
          f'{path}: label {number} is not all whole numbers from 0 to {_NUM_CLASSES}. '
          'Copy or download the file again.'
        )
      yield label


def _check_sizes(root: Path, example: Example, label: np.ndarray, where: str) -> None:
  for path in example.images:
    shape = shape_of(root / path, RGB if path == example.rgb else DEPTH)
    if shape != label.shape:
      raise DataError(
        f'{root / path}: {shape[0]} by {shape[1]} pixels, but {where} is '
        f'{label.shape[0]} by {label.shape[1]}. Copy or download both again.'
      )


def _link(source: Path, target: Path) -> bool:
  """Whether a hard link could be made; otherwise the file is copied."""
  target.parent.mkdir(parents=True)
  try:
    os.link(source.resolve(), target)
  except OSError:
    shutil.copyfile(source, target)
    return False
  return True


def _write_lists(folder: Path, examples: Sequence[Example]) -> None:
  for split in _PUBLISHED:
    for kind in ('rgb', 'depth', 'label'):
      lines = [getattr(e, kind) for e in examples if e.split == split]
      text = ''.join(f'{line}\n' for line in lines)
      (folder / f'{split}_{kind}.txt').write_text(text, encoding='utf-8')
