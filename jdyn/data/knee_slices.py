"""The slices of fastMRI's knees as I2M2 keeps them, and their table.

One HDF5 file per slice, `<volume>/knee_singlecoil_<volume>_<slice>.h5`, and
`metadata_knee.csv` with a row per slice. Both the source `fastmri` and
`prepare fastmri` know this layout from here.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jdyn.data import hdf5
from jdyn.data.dataset import DataError
from jdyn.data.files import read_columns

METADATA = 'metadata_knee.csv'
"""Name of the table."""

LABELS = ('abnormal', 'mtear', 'acl', 'cartilage')
"""The order of labels. `abnormal` is any other finding, not any finding at all."""

SPLITS = {'train': 'train_class', 'valid': 'val_class', 'test': 'test_class'}
"""The table's names of the splits."""

_COLUMNS = (
  '',
  'index',
  'volume_id',
  'slice_id',
  'labels',
  'shape',
  'dataset',
  'data_type',
  'data_split',
  'location',
)
_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_-]*')
_NUMBER = re.compile(r'\d{1,6}')


class Slice(NamedTuple):
  """A row of the table.

  Attributes:
    volume: name of the volume's file, without suffix.
    number: of the slice in it.
    findings: the annotations of the slice; empty if there are none.
    split: `train`, `valid` or `test`; '' for a slice in none.
    shape: of the slice's k-space.
  """

  volume: str
  number: int
  findings: tuple[str, ...]
  split: str
  shape: tuple[int, int] = (640, 400)

  @property
  def path(self) -> str:
    """Where the slice lies, relative to the table."""
    return f'{self.volume}/knee_singlecoil_{self.volume}_{self.number}.h5'


def read_table(path: Path) -> list[Slice]:
  """The rows of the table, in its order.

  The column `location` is not read: it names a path on the machine that wrote it.

  Raises:
    DataError: if it is no such table, or a cell is none of what its column may hold.
  """
  needed = ('volume_id', 'slice_id', 'labels', 'data_split')
  names = {theirs: ours for ours, theirs in SPLITS.items()} | {'': '', 'None': ''}
  slices = []
  for line, (volume, number, findings, split) in read_columns(path, needed):
    for name, cell, right in (
      ('volume_id', volume, _NAME.fullmatch(volume)),
      ('slice_id', number, _NUMBER.fullmatch(number)),
      ('labels', findings, findings[:1] + findings[-1:] == '[]'),
      ('data_split', split, split in names),
    ):
      if not right:
        raise DataError(
          f'{path}, line {line}: {name} is {cell!r:.80}. Correct the cell, or write '
          'the table again with `python -m jdyn.prepare fastmri`.'
        )
    slices.append(Slice(volume, int(number), _findings(findings), names[split]))
  return slices


def write_table(path: Path, slices: Sequence[Slice]) -> None:
  """Writes the table as the original does, but for paths relative to it."""
  with path.open('w', encoding='utf-8', newline='') as file:
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(_COLUMNS)
    for i, row in enumerate(slices):
      writer.writerow(
        (
          i,
          f'knee_{Path(row.path).stem}',
          row.volume,
          row.number,
          str(sorted(set(row.findings)) or [None]),
          row.shape,
          'knee',
          'original',
          SPLITS.get(row.split, ''),
          row.path,
        )
      )


def _findings(cell: str) -> tuple[str, ...]:
  """The annotations in a cell, which is what `str` makes of a list of them."""
  items = (item.strip(' \'"') for item in cell[1:-1].split(','))
  found = tuple(item for item in items if item)
  return () if 'None' in found else found


def label(findings: Sequence[str]) -> np.ndarray:
  """Annotations of a slice to `f32[4]` of zeros and ones, in the order of `LABELS`."""
  values = dict.fromkeys(LABELS, 0.0)
  for finding in findings:
    if 'ACL' in finding:
      values['acl'] = 1.0
    elif 'Meniscus Tear' in finding:
      values['mtear'] = 1.0
    elif 'cartilage' in finding.lower():
      values['cartilage'] = 1.0
    else:
      values['abnormal'] = 1.0
  return np.array([*values.values()], np.float32)


def write_slice(
  path: Path,
  arrays: Mapping[str, np.ndarray],
  findings: Sequence[str],
  **storage: Any,
) -> None:
  """Writes the file of one slice.

  Args:
    path: of the file; its folder must exist.
    arrays: `sc_kspace` c64 `(640, 400)`, `sampled_indices` `(2,)`, and if known the
      reconstructions `recon_esc` and `recon_rss`.
    findings: annotations of the slice.
    storage: how HDF5 keeps the k-space (`compression`, `chunks`).
  """
  import h5py

  with h5py.File(path, 'w') as file:
    for name, array in arrays.items():
      file.create_dataset(name, data=array, **(storage if name == 'sc_kspace' else {}))
    names = [*findings] or ['None']
    file.create_dataset('labels', data=names, dtype=h5py.string_dtype())


def read_image(path: Path, size: int) -> np.ndarray:
  """The centre of a slice's complex image: `c64[size, size]`.

  The image is the centred orthonormal inverse transform of the k-space.

  Raises:
    DataError: if the file is damaged, its k-space is no complex matrix, smaller than
      the image asked for, or has values that are not finite.
  """
  with hdf5.open_file(path) as file:
    kspace = hdf5.read(file, 'sc_kspace', shape=(None, None), kinds='c')
  if min(kspace.shape) < size:
    raise DataError(
      f'{path}: sc_kspace of shape {kspace.shape} has no image of {size} by {size}; '
      'choose a smaller image_size.'
    )
  # One axis after the other: what is cropped need not be transformed again.
  image = kspace.astype(np.complex64, copy=False)
  for axis in (0, 1):
    image = _centre(_inverse(image, axis), axis, size)
  if not np.isfinite(image).all():
    raise DataError(
      f'{path}: sc_kspace holds NaN or infinity. Remove the slice from {METADATA}, or '
      'copy the file again.'
    )
  return np.ascontiguousarray(image)


def _inverse(values: np.ndarray, axis: int) -> np.ndarray:
  """Centred: position 0 of either space is in the middle of its array."""
  origin = np.fft.ifftshift(values, axis)
  return np.fft.fftshift(np.fft.ifft(origin, axis=axis, norm='ortho'), axis)


def _centre(values: np.ndarray, axis: int, size: int) -> np.ndarray:
  start = (values.shape[axis] - size) // 2
  return np.take(values, range(start, start + size), axis)
