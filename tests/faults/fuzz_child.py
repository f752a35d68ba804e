"""The process in which inputs are tried, which any of them may end.

    python -m tests.faults.fuzz_child '{"mode": "replay", ...}'

In the folder that it is given, `begun` says which input is being tried, and `findings`
has a line for each that was lost. Both are up to date whenever the process dies.
"""

import base64
import contextlib
import faulthandler
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_WAIT = 10  # Times as long as an input may take the processor.
LARGEST = 2**16
"""Bytes of an input that is kept, or mutated further."""

_COVERED = ['jdyn', 'pickle', 'zipfile', 'gzip', 'wave', 'csv', 'scipy.io']


class _Bench:
  """Readers, tried one input at a time."""

  def __init__(self, options: dict[str, Any]):
    from tests.faults.guard import Guard

    self._folder, self._seconds = Path(options['folder']), options['seconds']
    self._guard = Guard(options['megabytes'], options['seconds'])
    self._begun, self._findings = (self._folder / n for n in ('begun', 'findings'))
    self.count = options['skip']

  def prepare(self, name: str) -> None:
    """Writes what belongs to the reader's file; imports what it imports late."""
    from tests.faults.readers import READERS

    self.name, self.reader = name, READERS[name]
    folder = self._folder / 'files' / name
    folder.mkdir(parents=True, exist_ok=True)
    self.reader.beside(folder)
    self._path = folder / self.reader.file
    self._path.parent.mkdir(exist_ok=True)
    for seed in self.reader.seeds():
      for data in (seed, seed[:-9]):
        self._path.write_bytes(self.reader.pack(data))
        with contextlib.suppress(Exception):
          self.reader.read(self._path)

  def attempt(self, what: str, content: bytes, refused: bool = False) -> None:
    """Tries one input, and notes if it is lost."""
    self.count += 1
    told = {'number': self.count, 'reader': self.name, 'what': what}
    self._path.write_bytes(content)
    self._begun.write_text(json.dumps(told | {'path': str(self._path)}))
    # Not every hang takes the processor.
    faulthandler.dump_traceback_later(_WAIT * self._seconds, exit=True)
    problem = self._guard.attempt(self.reader, self._path, refused)
    faulthandler.cancel_dump_traceback_later()
    if problem:
      if len(content) <= LARGEST:
        told['data'] = base64.b64encode(content).decode()
      with self._findings.open('a') as file:
        file.write(json.dumps(told | {'problem': problem}) + '\n')


def mutations(seeds: list[bytes], count: int, rng: random.Random) -> Iterator[bytes]:
  """Seeds with a few bits flipped, cut off, or with a piece left out or repeated."""
  for _ in range(count):
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 5))):
      start = rng.randrange(len(data) + 1)
      end = start + rng.choice((1, 2, 4, 8, 64))
      match rng.randrange(5):
        case 0:
          del data[start:]
        case 1:
          del data[start:end]
        case 2:
          data[start:start] = data[start:end]
        case 3:
          data[start:end] = bytes([rng.choice((0, 1, 0x7F, 0xFF))]) * (end - start)
        case 4 if start < len(data):
          data[start] ^= 1 << rng.randrange(8)
    yield bytes(data)


def _inputs(reader: Any, name: str, options: dict[str, Any]):
  """What a replay tries of a reader: names, and how the bytes come to be."""
  from tests.faults.attacks import attacks, corpus

  for number, seed in enumerate(reader.seeds()):
    yield f'seed {number}', reader.pack(seed), False
  for what, content, refused in attacks(name):
    yield f'attack: {what}', content, refused
  for what, content in corpus(name):
    yield f'found before: {what}', content, False
  rng = random.Random(f'{options["seed"]} {name}')
  for number, data in enumerate(mutations(reader.seeds(), options['mutations'], rng)):
    yield f'mutation {number}', reader.pack(data), False


def replay(options: dict[str, Any]) -> None:
  """Tries attacks, earlier findings and plain mutations, of many readers."""
  bench = _Bench(options)
  seen = 0
  for name in options['readers']:
    bench.prepare(name)
    for what, content, refused in _inputs(bench.reader, name, options):
      seen += 1
      if seen > options['skip']:
        bench.attempt(what, content, refused)


def fuzz(options: dict[str, Any]) -> None:
  """Mutates the corpus of one reader, guided by what code the inputs reach."""
  import atheris

  with atheris.instrument_imports(include=_COVERED):
    bench = _Bench(options)
    (name,) = options['readers']
    bench.prepare(name)
  folder = Path(options['folder']) / 'corpus'
  longest = max(path.stat().st_size for path in folder.iterdir())
  arguments = {
    'runs': options['runs'],
    'seed': options['seed'] + options['skip'] + 1,  # 0 would be the time.
    'max_len': 2 * longest + 256,
    'len_control': 0,
    'timeout': 0,
    'rss_limit_mb': 0,
    'verbosity': 0,
  }
  flags = [f'-{key}={value}' for key, value in arguments.items()]

  def try_one(data: bytes) -> None:
    bench.attempt('mutation', bench.reader.pack(data))

  atheris.Setup([sys.argv[0], *flags, str(folder)], try_one)
  atheris.Fuzz()


if __name__ == '__main__':
  given = json.loads(sys.argv[1])
  {'replay': replay, 'fuzz': fuzz}[given.pop('mode')](given)
