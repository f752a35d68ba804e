"""Files of a run that a test changes, sealed again as if the run had written them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jdyn.data.sealed import write_sealed


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any] = lambda _: None):
  """Changes a sealed file in place, and takes the files that it lists as they are."""
  entries = json.loads(path.read_text())
  del entries['sha256']
  files = [path.parent / name for name in entries.pop('files', {})]
  change(entries)
  write_sealed(path, entries, files)
