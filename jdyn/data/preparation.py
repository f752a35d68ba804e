"""What the preparations of datasets share: a folder that is complete or not there."""

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
  """Writes `manifest.json`: how the folder came to be.

  Args:
    folder: where to.
    entries: what can be written as JSON.
    packages: whose versions decided the contents, besides Python, NumPy and jdyn.
  """
  versions = {name: metadata.version(name) for name in ('numpy', *packages, 'jdyn')}
  manifest = entries | {'versions': {'python': platform.python_version(), **versions}}
  text = json.dumps(manifest, indent=1)
  (folder / 'manifest.json').write_text(f'{text}\n', encoding='utf-8')
