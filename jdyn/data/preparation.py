"""What the preparations of datasets share: a folder that is complete or not there.

Its manifest says how it came to be, and lists the SHA-256 of every file in it.
"""

import contextlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from jdyn.data.dataset import DataError
from jdyn.data.sealed import listed_files, write_sealed

MANIFEST = 'manifest.json'
"""Name of the manifest. Folders of others may have one of that name, too."""

# A flipped bit can hide one of them and not two.
_MARKS = {'files', 'made_by', 'sha256'}

Progress = Callable[[str, int, int], None]
"""Called as `progress(what, done, total)`."""


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
  """A folder to write to, which becomes `out` when the block ends without an error.

  Otherwise it is removed again, with what is in it.

  Raises:
    DataError: if `out` exists and is not an empty folder.
  """
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise DataError(f'{out}: exists. Remove it, or choose another folder.')
  partial = out.with_name(f'.{out.name}.partial-{os.getpid()}')
  partial.mkdir(parents=True)
  try:
    yield partial
    partial.replace(out)
  except BaseException:
    shutil.rmtree(partial)
    raise


def write_manifest(
  folder: Path, entries: Mapping[str, Any], packages: tuple[str, ...] = ()
) -> None:
  """Writes `manifest.json`: how the folder came to be, and what is in it.

  Args:
    folder: where to; all other files are in it.
    entries: what can be written as JSON.
    packages: whose versions decided the contents, besides Python, NumPy and jdyn.
  """
  versions = {name: metadata.version(name) for name in ('numpy', *packages, 'jdyn')}
  versions = {'python': platform.python_version(), **versions}
  seal_folder(folder, {**entries, 'versions': versions})


def seal_folder(folder: Path, entries: Mapping[str, Any]) -> None:
  """Writes `manifest.json` with entries and the SHA-256 of every file of a folder."""
  files = sorted(path for path in folder.rglob('*') if path.is_file())
  write_sealed(folder / MANIFEST, {**entries, 'made_by': 'jdyn'}, files)


def manifest_hashes(folder: Path, remedy: str) -> dict[str, str] | None:
  """SHA-256 by name of the files of a folder that has a manifest.

  Args:
    folder: of a dataset.
    remedy: what the error says to do.

  Returns:
    None if `seal_folder` wrote no manifest there; one of somebody else's may be there.

  Raises:
    DataError: the manifest is damaged.
  """
  path = folder / MANIFEST
  return listed_files(path, remedy) if path.is_file() and _is_ours(path) else None


def _is_ours(path: Path) -> bool:
  """Whether a manifest was written by `seal_folder`, damaged or not."""
  try:
    entries = json.loads(path.read_bytes())
  except (ValueError, RecursionError):
    return True
  return isinstance(entries, dict) and len(_MARKS & entries.keys()) > 1
