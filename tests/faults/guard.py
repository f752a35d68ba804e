"""One reader on one file, watched: does it end in a value, or in one clear error?"""

import gc
import math
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jdyn.data.dataset import DataError
from tests.faults.readers import Reader

LONGEST = 2000
"""Characters of an error."""

# What a reader has no business with. Python raises these events itself.
_FORBIDDEN = (
  *('compile', 'exec', 'import', 'marshal.loads', 'pickle.find_class', 'code.__new__'),
  *('ctypes', 'os', 'pty', 'shutil', 'signal', 'socket', 'subprocess'),
  *('sqlite3', 'ftplib', 'http', 'smtplib', 'urllib', 'webbrowser', 'winreg'),
)
_ALLOWED = ('os.listdir', 'os.scandir', 'os.walk', 'os.fwalk', 'os.getxattr')
_LAZY = (
  *('cv2', 'encodings', 'h5py', 'jdyn', 'numpy', 'scipy', 'sklearn'),
  'unicodedata',
)
"""Packages that the readers may import when they are first needed."""


class Guard:
  """Watches what happens while a reader runs; there is one in a process."""

  def __init__(self, megabytes: int, seconds: float):
    """No attempt may take more.

    Args:
      megabytes: on top of the memory that is mapped when it begins.
      seconds: of the processor; then the process ends.
    """
    self._bytes, self._seconds = megabytes * 2**20, seconds
    self._on = False
    self._events: list[str] = []
    sys.addaudithook(self._watch)

  def attempt(self, reader: Reader, path: Path, refused: bool = False) -> str:
    """What went wrong; empty if the file was read or refused as it should be.

    Args:
      reader: to try.
      path: of its file.
      refused: whether the file must not be read.
    """
    self._events.clear()
    self._limit(_mapped() + self._bytes)
    end = math.ceil(time.process_time() + self._seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (end, resource.RLIM_INFINITY))
    self._on = True
    try:
      reader.read(path)
      problem = 'was read' if refused else ''
    except DataError as error:
      problem = _unclear(error, reader, path)
    except BaseException as error:  # An exit is a finding, too.
      problem = describe(error)
    finally:
      self._on = False
      self._limit(resource.RLIM_INFINITY)
    return self._events[0] if self._events else problem

  def _limit(self, size: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))

  def _watch(self, event: str, arguments: tuple[Any, ...]) -> None:
    if not self._on:
      return
    self._on = False  # What is done here is not the reader's.
    if _forbidden(event, arguments) and not _importing():
      self._events.append(f'event {event} {arguments!r:.80}')
    self._on = True


def describe(error: BaseException) -> str:
  """Its type and where it was raised, which is the same for similar inputs."""
  frames = []
  trace = error.__traceback__
  while trace:
    file = trace.tb_frame.f_code.co_filename
    if '/jdyn/' in file:
      frames.append(f'{Path(file).name}:{trace.tb_lineno}')
    trace = trace.tb_next
  # Nothing of a million frames of a recursion is kept alive.
  error.__traceback__ = None
  gc.collect()
  return f'{type(error).__name__} at {frames[-1] if frames else "?"}'


def _forbidden(event: str, arguments: tuple[Any, ...]) -> bool:
  if event == 'open':
    _, mode, flags = arguments
    return bool(set(mode or '') & set('wax+')) or bool((flags or 0) & 0o3)
  if event == 'import':
    return str(arguments[0]).split('.')[0] not in _LAZY
  if event == 'compile':
    return arguments[1] != '<unknown>'  # Of `ast.parse`, which runs nothing.
  return event not in _ALLOWED and any(
    event == name or event.startswith(f'{name}.') for name in _FORBIDDEN
  )


def _importing() -> bool:
  """Whether Python is within an import, which was judged when it began."""
  return any('importlib' in frame for frame in _files(sys._getframe(2)))


def _files(frame: Any) -> Iterator[str]:
  while frame:
    yield frame.f_code.co_filename
    frame = frame.f_back


def _unclear(error: DataError, reader: Reader, path: Path) -> str:
  """What is wrong with the error itself."""
  text = str(error)
  named = str(path) if not reader.names else _root(reader, path)
  cause = error.__cause__
  if isinstance(cause, MemoryError):
    return f'memory ran out, {describe(cause)}'
  if named not in text:
    return f'an error without the file: {text:.80}'
  if len(text) > LONGEST:
    return f'an error of {len(text)} characters: {text:.80}'
  if strange := {c for c in text if not (c.isprintable() or c == '\n')}:
    return f'an error with {sorted(strange)[:3]}: {text:.80}'
  return ''


def _root(reader: Reader, path: Path) -> str:
  return str(path)[: -len(reader.file) - 1]


def _mapped() -> int:
  with open('/proc/self/statm', 'rb') as file:
    return int(file.read().split()[0]) * resource.getpagesize()
