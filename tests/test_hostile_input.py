"""No file from elsewhere is executed, hangs, or takes more memory than it may.

The short version of `python -m tests.faults fuzz`: every attack written by hand, what
fuzzing has found before (`tests/faults/corpus`), and some plain mutations.
"""

import ast
import random
import re
from pathlib import Path

import pytest

from tests.faults.attacks import attacks
from tests.faults.fuzz import replay
from tests.faults.readers import MODULES, READERS

MUTATIONS = 100
SOURCES = Path('jdyn')


@pytest.fixture(scope='module')
def outcome():
  """All of them, tried in one process if none kills it: how many, and the lost ones."""
  seed = random.randrange(2**20)
  return seed, *replay([*READERS], mutations=MUTATIONS, seed=seed)


def test_every_input_was_tried(outcome):
  _, tried, _ = outcome
  assert tried > len(READERS) * (MUTATIONS + 6)


@pytest.mark.parametrize('name', READERS)
def test_no_input_is_lost(name, outcome):
  seed, _, lost = outcome
  found = [f'{each.what}: {each.problem}' for each in lost if each.reader == name]
  assert not found, f'seed {seed}'


@pytest.mark.parametrize('name', READERS)
def test_attacks_are_on_every_reader(name):
  assert len(attacks(name)) >= 5


# What opens a file or parses its bytes, by the name that is called.
_OPENING = {
  *('open', 'read_bytes', 'read_text', 'fromfile', 'loadtxt', 'genfromtxt', 'memmap'),
  *('loads', 'ZipFile', 'TarFile', 'NpzFile', 'GzipFile', 'loadmat', 'imdecode'),
  *('imread', 'imreadmulti', 'safe_load', 'open_memmap', 'unpack_archive'),
}
_LOADERS = {'np.load', 'numpy.load', 'h5py.File', 'json.load', 'pickle.load'}


def test_no_module_reads_a_file_that_is_not_listed():
  assert _opening() == set(MODULES)


def test_the_modules_name_readers():
  assert {name for names in MODULES.values() for name in names} == set(READERS)


def test_nothing_that_runs_what_it_reads_is_called():
  forbidden = re.compile(
    r'\b(pickle\.loads?|torch\.load|marshal|shelve|yaml\.load|unsafe_load'
    r'|allow_pickle=True|read_pickle|extractall|unpack_archive)\b'
  )
  found = {
    str(path): hit[0]
    for path in SOURCES.rglob('*.py')
    if (hit := forbidden.search(path.read_text()))
  }
  assert not found


def _opening() -> set[str]:
  """Modules with a call that reads a file."""
  found = set()
  for path in SOURCES.rglob('*.py'):
    calls = (n.func for n in ast.walk(ast.parse(path.read_text())) if _is_call(n))
    for function in calls:
      whole = ast.unparse(function)
      if whole in _LOADERS or whole.split('.')[-1] in _OPENING:
        found.add(path.relative_to(SOURCES).as_posix())
  return found


def _is_call(node: ast.AST) -> bool:
  if not isinstance(node, ast.Call):
    return False
  # A file opened for writing alone reads nothing.
  modes = [a.value for a in node.args if isinstance(a, ast.Constant)]
  return not any(mode in ('w', 'wb', 'a', 'x') for mode in modes)
