"""Cuts fastMRI's knee volumes into slices and deals them out, as I2M2 does.

Madaan et al., 2024 (`knee_singlecoil.py` and `generate_knee_metadata.py` of its
release), on the volumes of fastMRI and the annotations of fastMRI+. K-space of fewer
columns than 400 is filled up with zeros on both sides; volumes of more are left out.
The volumes that fastMRI+ has looked at are split 70, 15 and 15, whole volumes at a
time. The release differs in that

- its split hangs on the order of a Python set of strings, which is another one in
  every process, so that two runs disagree on who is in the test set. Here the volumes
  are sorted first. Its own split cannot be had again;
- filled k-space becomes complex128, twice the size; here it stays complex64;
- it cuts up volumes without annotations too, which no split then uses;
- k-space of another number of rows than 640 ends it with an error about shapes; here
  the error names the file;
- the table's paths hold for the folder that it was written from; here they are
  relative to the table.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jdyn.data import hdf5
from jdyn.data.dataset import DataError
from jdyn.data.files import read_columns
from jdyn.data.hashing import sha256_file
from jdyn.data.knee_slices import METADATA, Slice, write_slice, write_table
from jdyn.data.preparation import Progress, new_folder, write_manifest

_FOLDERS = ('singlecoil_train', 'singlecoil_val')
_KSPACE = (640, 400)
_NUMBER = re.compile(r'\d{1,6}', re.ASCII)
_FEWEST = 4  # Of which 2, 1 and 1 are train, validation and test.

Findings = Mapping[tuple[str, int], Sequence[str]]
"""Annotations by volume and number of the slice."""


class Volume(NamedTuple):
  """One file of fastMRI: `S` slices of k-space, and the images made from it."""

  kspace: np.ndarray
  esc: np.ndarray
  rss: np.ndarray


def read_annotations(path: Path) -> dict[tuple[str, int], list[str]]:
  """What fastMRI+ found in each slice, in the order of its `knee.csv`.

  Raises:
    DataError: a column is missing, or the number of a slice is none.
  """
  findings: dict[tuple[str, int], list[str]] = {}
  for line, (file, number, label) in read_columns(path, ('file', 'slice', 'label')):
    if not _NUMBER.fullmatch(number) or not file or not label:
      raise DataError(
        f'{path}, line {line}: {[file, number, label]!r:.120} names no finding in a '
        'slice. Fetch it again.'
      )
    findings.setdefault((file, int(number)), []).append(label)
  if not findings:
    raise DataError(f'{path}: no rows. Fetch it again.')
  return findings


def read_names(path: Path) -> list[str]:
  """The volumes that fastMRI+ has looked at, sorted, of its `knee_file_list.csv`.

  Raises:
    DataError: they are too few to be split, or one is there twice.
  """
  try:
    with path.open(encoding='utf-8', newline='') as file:
      names = sorted(row[0].strip() for row in csv.reader(file) if row)
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise DataError(
      f'{path}: not a readable table ({error}). It is in the folder Annotations of '
      'https://github.com/microsoft/fastmri-plus.'
    ) from error
  if len(names) < _FEWEST or len(set(names)) < len(names) or not all(names):
    raise DataError(
      f'{path}: {len(names)} volumes, {len(set(names))} different; expected a list '
      f'of at least {_FEWEST} different ones, one name per line.'
    )
  return names


def split_volumes(names: Sequence[str]) -> dict[str, str]:
  """Split by volume; the same for the same names, in whatever order they come.

  As in the release, whoever is listed counts, whether its file is there or not.
  """
  from sklearn.model_selection import train_test_split

  train, rest = train_test_split(sorted(names), test_size=0.3, random_state=0)
  test, valid = train_test_split(rest, test_size=0.5, random_state=0)
  parts = {'train': train, 'valid': valid, 'test': test}
  return {name: split for split, part in parts.items() for name in part}


def prepare_fastmri(
  volumes: Path,
  annotations: Path,
  files: Path,
  out: Path,
  *,
  kspace_shape: tuple[int, int] = _KSPACE,
  progress: Progress = lambda _what, _done, _total: None,
) -> dict[str, int]:
  """Writes the folder that the source `fastmri` reads, and its manifest.

  One volume is in memory at a time. The folder appears under its name only when it is
  complete. Equal arguments give equal slices and tables.

  Args:
    volumes: folder with `singlecoil_train` and `singlecoil_val`, or one of them, or
      with the files `<volume>.h5` themselves.
    annotations: `knee.csv` of fastMRI+.
    files: `knee_file_list.csv` of fastMRI+.
    out: the folder to create; it must not exist, or be empty.
    kspace_shape: rows and columns of every slice.
    progress: told how far the work is.

  Returns:
    Counts: `volumes` and `slices` written, `absent` volumes that are listed, `wide`
    ones of too many columns, and files `unlisted` in the list.

  Raises:
    DataError: if `out` has files, or the input is incomplete or damaged.
  """
  findings, names = read_annotations(annotations), read_names(files)
  splits = split_volumes(names)
  found = _find_volumes(volumes)
  chosen = [found[name] for name in names if name in found]
  if not chosen:
    raise DataError(f'{volumes}: no volume of {files} is there, only {[*found][:3]}.')

  with new_folder(out) as folder:
    slices, wide = [], []
    for done, path in enumerate(chosen):
      progress('volumes', done, len(chosen))
      written = [*_write_volume(path, folder, findings, splits, kspace_shape)]
      slices += written
      wide += [] if written else [path.stem]
    progress('volumes', len(chosen), len(chosen))
    write_table(folder / METADATA, slices)
    counts = {
      'volumes': len(chosen) - len(wide),
      'slices': len(slices),
      'absent': len(names) - len(chosen),
      'wide': len(wide),
      'unlisted': len(found) - len(chosen),
    }
    manifest = {
      'counts': counts,
      'wide': wide,
      'absent': [name for name in names if name not in found],
      'kspace_shape': kspace_shape,
      'sources': {path.name: sha256_file(path) for path in (annotations, files)},
    }
    write_manifest(folder, manifest, ('scikit-learn',))
  return counts


def _find_volumes(root: Path) -> dict[str, Path]:
  """Files by name of the volume."""
  folders = [root / name for name in _FOLDERS if (root / name).is_dir()] or [root]
  paths = [path for folder in folders for path in sorted(folder.glob('*.h5'))]
  if not paths:
    raise DataError(
      f'{root}: no volumes *.h5, nor folders {_FOLDERS} of them. They are to be had '
      'from https://fastmri.med.nyu.edu, on request.'
    )
  found = {path.stem: path for path in paths}
  if len(found) < len(paths):
    raise DataError(f'{root}: a volume is in both {_FOLDERS}. Remove one of the two.')
  return found


def _write_volume(
  path: Path,
  out: Path,
  findings: Findings,
  splits: Mapping[str, str],
  kspace_shape: tuple[int, int],
) -> Iterator[Slice]:
  """Writes the slices of a volume, none if it is too wide; yields their rows."""
  volume, shape = _read_volume(path, kspace_shape[0]), kspace_shape
  left = (shape[1] - volume.kspace.shape[2]) // 2
  if left < 0:
    return
  (out / path.stem).mkdir()
  sampled = left + _sampled(volume.kspace[:1], path)  # The mask is that of the volume.
  for number, plane in enumerate(volume.kspace):
    # Zero columns on both sides; the odd one is on the right.
    kspace = np.zeros(shape, np.complex64)
    kspace[:, left : left + plane.shape[1]] = plane
    labels = tuple(findings.get((path.stem, number), ()))
    row = Slice(path.stem, number, labels, splits[path.stem], shape)
    arrays = {
      'sc_kspace': kspace,
      'recon_esc': volume.esc[number],
      'recon_rss': volume.rss[number],
      'sampled_indices': sampled,
    }
    write_slice(out / row.path, arrays, labels)
    yield row


def _read_volume(path: Path, rows: int) -> Volume:
  with hdf5.open_file(path) as file:
    kspace = hdf5.read(file, 'kspace', shape=(None, rows, None), kinds='c')
    count = len(kspace)
    images = [
      hdf5.read(file, f'reconstruction_{kind}', shape=(count, None, None), kinds='f')
      for kind in ('esc', 'rss')
    ]
  return Volume(kspace, *images)


def _sampled(kspace: np.ndarray, path: Path) -> np.ndarray:
  """The first and the last column of `[S, rows, columns]` that was measured."""
  columns = np.flatnonzero(kspace.any(axis=(0, 1)))
  if not columns.size:
    raise DataError(f'{path}: the first slice of kspace is zero. Copy the file again.')
  return columns[[0, -1]]
