"""Hostile files: attacks written by hand, and mutations guided by coverage.

Every reader of outside files (see `readers`) is given files that try to run code, to
exhaust memory or to hang, then mutations of valid and of hostile files. An input
survives if it is read, or refused with one error that names the file. It is lost if
anything else is raised, a process dies, the time or the memory is used up, or
something is imported, executed, written or connected to. The mutations are those of
libFuzzer by way of Atheris: `pip install 'jdyn[fuzz]'`, on Linux.
"""

import base64
import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.faults.fuzz_child import LARGEST
from tests.faults.table import Row

_ROOT = Path(__file__).resolve().parents[2]
_MEMORY = Path('/dev/shm')
_MOST_DEATHS = 25  # Of one reader; then it is given up.


@dataclasses.dataclass(frozen=True)
class Finding:
  """An input that was lost.

  Attributes:
    reader: that was given it.
    what: the input was.
    problem: that it made.
    content: of the file, unless it is large.
  """

  reader: str
  what: str
  problem: str
  content: bytes | None


def add_arguments(parser) -> None:
  """What the long run does."""
  parser.add_argument('--inputs', type=int, default=10_000, help='mutated, per reader')
  parser.add_argument('--readers', nargs='*', help='all if none is named')
  parser.add_argument(
    '--megabytes', type=int, default=512, help='that one input may take'
  )
  parser.add_argument(
    '--seconds', type=float, default=10, help='that one input may take'
  )
  parser.add_argument('--keep', type=Path, help='folder for the inputs that are lost')


def run(options) -> Iterator[Row]:
  """A row per reader and kind of input."""
  from tests.faults.readers import READERS

  if importlib.util.find_spec('atheris') is None:
    sys.exit(
      "Fuzzing needs Atheris, which there is for Linux: pip install 'jdyn[fuzz]'."
    )
  for name in options.readers or READERS:
    for what, trial in (('attacks', _attacks), ('mutations', _mutations)):
      start = time.monotonic()
      tried, lost = trial(name, options)
      took = time.monotonic() - start
      print(f'{name}: {tried} {what} in {took:.0f} s', file=sys.stderr, flush=True)
      if options.keep:
        keep(options.keep, lost)
      worst = Counter(finding.problem for finding in lost).most_common(1)
      note = worst[0][0] if worst else ''
      yield Row('fuzz', f'{name}: {what}', tried, tried - len(lost), len(lost), note)


def replay(
  readers: Sequence[str],
  *,
  mutations: int = 0,
  seed: int = 0,
  megabytes: int = 512,
  seconds: float = 5,
) -> tuple[int, list[Finding]]:
  """Tries attacks, earlier findings and plain mutations, if possible in one process.

  Returns:
    How many inputs were tried, and the lost ones.
  """
  options = {
    'mode': 'replay',
    'readers': [*readers],
    'mutations': mutations,
    'seed': seed,
    'megabytes': megabytes,
    'seconds': seconds,
    'skip': 0,
  }
  with _folder() as folder:
    while not _child(folder, options):
      options['skip'] = _begun(folder)['number']
    return _begun(folder)['number'], _findings(folder)


def keep(folder: Path, lost: Sequence[Finding]) -> None:
  """Writes the inputs into folders of readers, with a list of the problems."""
  for finding in lost:
    if finding.content is not None:
      name = hashlib.sha256(finding.content).hexdigest()[:12]
      (folder / finding.reader).mkdir(parents=True, exist_ok=True)
      (folder / finding.reader / name).write_bytes(finding.content)
      with (folder / 'problems.txt').open('a') as file:
        file.write(f'{finding.reader}/{name}: {finding.what}: {finding.problem}\n')


def _attacks(name: str, options) -> tuple[int, list[Finding]]:
  return replay(
    [name], seed=options.seed, megabytes=options.megabytes, seconds=options.seconds
  )


def _mutations(name: str, options) -> tuple[int, list[Finding]]:
  """Until as many inputs as asked for were tried, whatever dies on the way."""
  from tests.faults.attacks import attacks
  from tests.faults.readers import READERS

  reader = READERS[name]
  inputs = reader.seeds()
  if reader.pack is bytes:
    inputs += [attack.content for attack in attacks(name)]
  told = {
    'mode': 'fuzz',
    'readers': [name],
    'seed': options.seed,
    'megabytes': options.megabytes,
    'seconds': options.seconds,
    'skip': 0,
  }
  with _folder() as folder:
    (folder / 'corpus').mkdir()
    for number, content in enumerate(c for c in inputs if len(c) <= LARGEST):
      (folder / f'corpus/{number:04d}').write_bytes(content)
    deaths = 0
    while told['skip'] < options.inputs and deaths < _MOST_DEATHS:
      deaths += not _child(folder, told | {'runs': options.inputs - told['skip']})
      told['skip'] = _begun(folder)['number']
    return told['skip'], _findings(folder)


def _child(folder: Path, options: dict[str, Any]) -> bool:
  """Whether the process came to its end; notes as a finding what it died of."""
  process = subprocess.run(
    [
      *(sys.executable, '-m', 'tests.faults.fuzz_child'),
      json.dumps(options | {'folder': str(folder)}),
    ],
    cwd=_ROOT,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
    errors='replace',
  )
  if not process.returncode:
    return True
  begun = _begun(folder)
  if begun['number'] <= options['skip']:
    raise RuntimeError(f'The fuzzing process failed:\n{process.stderr[-4000:]}')
  content = Path(begun.pop('path')).read_bytes()
  late = process.returncode == -signal.SIGXCPU or 'Timeout (' in process.stderr
  died = f'the process died ({process.returncode}): {process.stderr[-200:]!r}'
  problem = f'more than {options["seconds"]} s' if late else died
  if len(content) <= LARGEST:
    begun['data'] = base64.b64encode(content).decode()
  with (folder / 'findings').open('a') as file:
    file.write(json.dumps(begun | {'problem': problem}) + '\n')
  return False


def _begun(folder: Path) -> dict[str, Any]:
  path = folder / 'begun'
  return json.loads(path.read_text()) if path.exists() else {'number': 0}


def _findings(folder: Path) -> list[Finding]:
  path = folder / 'findings'
  lines = path.read_text().splitlines() if path.exists() else []
  return [
    Finding(
      line['reader'],
      line['what'],
      line['problem'],
      base64.b64decode(line['data']) if 'data' in line else None,
    )
    for line in map(json.loads, lines)
  ]


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
  """In memory where there is such a file system: one file is written per input."""
  root = _MEMORY if os.access(_MEMORY, os.W_OK) else None
  with tempfile.TemporaryDirectory(prefix='jdyn-', dir=root) as folder:
    yield Path(folder)
