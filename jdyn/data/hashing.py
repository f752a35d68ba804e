"""Hashes of data files, so that every result names the data it came from."""

import hashlib
from pathlib import Path


def sha256_file(path: Path) -> str:
  """SHA-256 of a file as hex; the file is streamed, never held in memory."""
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
