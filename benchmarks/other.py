"""A program in another interpreter that answers JSON lines; it waits in between."""

import json
import subprocess
from collections.abc import Sequence
from typing import Any


class Other:
  """The other side of a comparison.

  Attributes:
    versions: its first line.
  """

  def __init__(self, python: str, arguments: Sequence[Any]):
    self._process = subprocess.Popen(
      [python, '-W', 'ignore', *map(str, arguments)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    self.versions = self._answer()

  def ask(self, **request) -> dict:
    """Sends a request and waits for its answer."""
    self._process.stdin.write(json.dumps(request) + '\n')
    self._process.stdin.flush()
    return self._answer()

  def _answer(self) -> dict:
    line = self._process.stdout.readline()
    if not line:
      raise SystemExit('The original failed; its error is above.')
    return json.loads(line)

  def close(self) -> None:
    """Ends the interpreter."""
    self._process.stdin.close()
    self._process.wait()
