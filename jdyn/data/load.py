"""From a source and a folder to a checked dataset that says where it came from."""

import hashlib
import logging
import shutil
import tempfile
from pathlib import Path

from jdyn.data.dataset import DataError, Dataset, Source
from jdyn.data.hashing import sha256_file
from jdyn.data.preparation import MANIFEST, manifest_hashes, seal_folder
from jdyn.data.sealed import check_files, check_hash
from jdyn.data.stand_in import VERSION
from jdyn.data.validate import validate

_MARK = 'SYNTHETIC_STAND_IN.txt'
_MARK_TEXT = 'Made-up files in the format of a real dataset; scores mean nothing.\n'


def load(source: Source, root: str | None, cache: Path, seed: int = 0) -> Dataset:
  """Loads, hashes and validates a dataset.

  Args:
    source: the reader.
    root: the folder of the files (or the file, where a source takes one). If it is
      empty, data that ship inside a dependency are used if the source has them,
      and otherwise a synthetic stand-in.
    cache: folder where stand-ins are kept between runs.
    seed: of the stand-in.

  Returns:
    The dataset, with its origin and the SHA-256 of every file that was read. A
    folder that holds a stand-in is a stand-in whoever names it. Stand-ins, and what
    `python -m jdyn.prepare` made, are compared with their manifest.

  Raises:
    DataError: if files are missing, damaged or inconsistent.
  """
  if source.bundled:
    if root:
      raise DataError(
        f'data.root={root!r}, but these are {source.layout}. Leave data.root empty.'
      )
    folder, origin = cache, 'bundled'
  else:
    folder = Path(root).expanduser() if root else _stand_in(source, cache, seed)
    marked = (folder.parent if folder.is_file() else folder) / _MARK
    origin = 'synthetic stand-in' if marked.is_file() else 'real'
  hashes = _hashes(source, folder, root)
  spec = source.spec(folder)
  splits = source.load(folder)
  validate(spec, splits)
  if origin == 'synthetic stand-in':
    logging.warning(
      'SYNTHETIC STAND-IN for %s: made-up data in %s. Scores on it mean nothing for '
      'the real dataset. For that, set data.root to a folder of this layout:\n%s',
      spec.name,
      folder,
      source.layout,
    )
  return Dataset(spec=spec, splits=splits, origin=origin, hashes=hashes)


def _hashes(source: Source, folder: Path, root: str | None) -> dict[str, str]:
  """SHA-256 of what the source reads, by name; the same as in the manifest, if any."""
  remedy = (
    'Restore it from a copy, or prepare the folder again.'
    if root
    else f'Remove {folder} to have the stand-in made anew.'
  )
  listed = manifest_hashes(folder, remedy)
  path = folder / MANIFEST
  try:
    files = source.files(folder)
  except DataError:
    if listed:  # A damaged list of files, rather than the files that it seems to name.
      check_files(path, remedy=remedy)
    raise
  found = {_name(file, folder): sha256_file(file) for file in files}
  if listed:
    for name in sorted(found.keys() - {MANIFEST}):
      check_hash(path, name, found[name], listed, remedy)
  return found


def _name(path: Path, root: Path) -> str:
  """The path below the root; the mere name of a file that is not below it."""
  below = path != root and path.is_relative_to(root)
  return path.relative_to(root).as_posix() if below else path.name


def _stand_in(source: Source, cache: Path, seed: int) -> Path:
  """The folder of the stand-in for these options; written if it is not there.

  It is written under another name and then renamed, so a folder of the final name
  is always complete, whatever was killed and whoever else writes it.
  """
  key = hashlib.sha256(f'{source!r} {seed} {VERSION}'.encode()).hexdigest()[:12]
  folder = cache / f'{type(source).__name__.lower()}-{key}'
  if not folder.is_dir():
    cache.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f'.{folder.name}-', dir=cache))
    try:
      (draft / _MARK).write_text(_MARK_TEXT)
      source.write_stand_in(draft, seed)
      seal_folder(draft, {'source': repr(source), 'seed': seed})
      draft.rename(folder)
    except OSError:
      if not folder.is_dir():  # Another process may have been first.
        raise
    finally:
      shutil.rmtree(draft, ignore_errors=True)
  return folder
