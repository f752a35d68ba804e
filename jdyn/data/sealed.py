"""JSON files that say whether they are still what was written.

A sealed file carries the SHA-256 of its own text, and where it is told of other files
that belong to it, of each of those. A flipped bit or a missing end is then an error
that names the file, and never another value.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jdyn.data.dataset import DataError
from jdyn.data.hashing import sha256_file

_SEAL = 'sha256'
_FILES = 'files'
_REMEDY = 'Restore it from a copy, or remove it to have it made anew.'


def write_sealed(
  path: Path, value: Mapping[str, Any], files: Iterable[Path] = ()
) -> None:
  """Writes a JSON object atomically and durably: it is there as a whole or not at all.

  Args:
    path: of the file; its folder must exist.
    value: what can be written as JSON, without the keys `sha256` and `files`.
    files: below the folder of `path`, whose hashes are written with it.
  """
  if taken := sorted({_SEAL, _FILES} & value.keys()):
    raise ValueError(f'{path}: the keys {taken} are kept for the seal.')
  entries = json.loads(json.dumps(value))  # Keys become text, as they will be read.
  if hashes := {_below(path, file): sha256_file(file) for file in files}:
    entries[_FILES] = hashes
  entries[_SEAL] = hashlib.sha256(_text(entries).encode()).hexdigest()
  write_durably(path, _text(entries).encode())


def write_durably(path: Path, content: bytes) -> None:
  """Writes a file that is there as a whole or not at all, even after a power cut."""
  partial = path.with_name(f'{path.name}.partial')
  with open(partial, 'wb') as file:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())
  os.replace(partial, path)


def read_sealed(path: Path, remedy: str = _REMEDY) -> dict[str, Any]:
  """The object that `write_sealed` wrote; not yet whether its `files` are whole.

  Args:
    path: of the file.
    remedy: what the error says to do about damage.

  Raises:
    DataError: the file is missing, damaged or was never sealed.
  """
  return _read(path, remedy)[0]


def listed_files(path: Path, remedy: str = _REMEDY) -> dict[str, str]:
  """SHA-256 by name of the `files` that a sealed file was told of.

  Args:
    path: of the sealed file; names are relative to its folder.
    remedy: what the error says to do about damage.

  Raises:
    DataError: the sealed file is missing or damaged.
  """
  return _read(path, remedy)[1]


def check_files(
  path: Path, names: Iterable[str] | None = None, remedy: str = _REMEDY
) -> None:
  """Compares files with their hashes in a sealed file.

  Args:
    path: of the sealed file.
    names: of the files to look at, relative to its folder; None stands for all.
    remedy: what the errors say to do.

  Raises:
    DataError: the sealed file or one of those is missing or damaged, or it was not
      told of one of them.
  """
  listed = listed_files(path, remedy)
  for name in sorted(listed) if names is None else names:
    file = path.parent / name
    found = sha256_file(file) if file.is_file() else ''
    check_hash(path, name, found, listed, remedy)


def check_hash(
  path: Path, name: str, found: str, listed: Mapping[str, str], remedy: str = _REMEDY
) -> None:
  """Compares the hash of a file, '' if it is not there, with the one in a sealed file.

  Args:
    path: of the sealed file.
    name: of the other one, relative to its folder.
    found: SHA-256 of that.
    listed: by `listed_files`.
    remedy: what the error says to do.

  Raises:
    DataError: it is missing, damaged or not listed.
  """
  file = path.parent / name
  if name not in listed:
    raise DataError(f'{file}: not there when {path} was written. {remedy}')
  if not found:
    raise DataError(f'{file}: missing; {path} lists it. {remedy}')
  if found != listed[name]:
    raise DataError(
      f'{file}: damaged, or changed after it was written: its SHA-256 is not that in '
      f'{path}. {remedy}'
    )


def _read(path: Path, remedy: str) -> tuple[dict[str, Any], dict[str, str]]:
  try:
    content = path.read_bytes()
  except OSError as error:
    raise DataError(
      f'{path}: cannot be read ({error.strerror}). Is it the right folder?'
    ) from error
  try:
    entries = json.loads(content)
    seal = entries.pop(_SEAL)
    wanted = hashlib.sha256(_text(entries).encode()).hexdigest()
    # The text too: a flip within white space would leave the value as it was.
    whole = seal == wanted and content == _text({**entries, _SEAL: seal}).encode()
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
    whole = False
  if not whole:
    raise DataError(
      f'{path}: damaged, or changed after it was written: it does not have the SHA-256 '
      f'that it names. {remedy}'
    )
  return entries, entries.pop(_FILES, {})


def _text(entries: Mapping[str, Any]) -> str:
  return json.dumps(entries, indent=1, sort_keys=True) + '\n'


def _below(path: Path, file: Path) -> str:
  return file.relative_to(path.parent).as_posix()
