"""Who may import whom: a file imports from lower layers, and from its own folder."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

LAYERS = [
  {'typing'},
  {'ops', 'metrics'},
  {'layers', 'data', 'cost', 'optimizer'},
  {'encoders', 'fusions', 'gates'},
  {'models', 'tasks', 'losses'},
  {'evaluators', 'interop'},
  {'config_schema'},
  {'config_rules', 'misfit'},
  {'build'},
  {'training'},
  {'inference'},
  {'train', 'sweep', 'evaluate', 'prepare', 'report', 'convert', 'predict'},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
COMMANDS = LAYERS[-1]

FILES = sorted(path.relative_to(ROOT) for path in (ROOT / 'jdyn').rglob('*.py'))
CONFIGS = sorted(path.relative_to(ROOT) for path in (ROOT / 'configs').glob('*.py'))


def imports(source: str) -> Iterator[tuple[int, str]]:
  """Line and full name of everything that a file imports, also inside functions."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      yield from ((node.lineno, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'line {node.lineno}: imports here are absolute'
      yield from ((node.lineno, f'{node.module}.{a.name}') for a in node.names)


def violations(path: str, source: str) -> list[str]:
  """What a file of the package imports though it may not."""
  _, package, *_ = Path(path).with_suffix('').parts
  found = []
  for line, name in imports(source):
    root, *rest = name.split('.')
    if root in ('tests', 'configs', 'benchmarks'):
      found.append(f'{path}:{line}: the library may not import {root}.')
    if root != 'jdyn' or package == '__init__':
      continue
    target = rest[0]
    if target not in RANK:
      found.append(f'{path}:{line}: {target} has no layer; give it one in LAYERS.')
    elif target == package and package not in COMMANDS:
      continue
    elif RANK[target] >= RANK[package]:
      found.append(f'{path}:{line}: {package} may not import {name}.')
  return found


@pytest.mark.parametrize('path', FILES, ids=str)
def test_imports_point_downwards(path):
  package = path.with_suffix('').parts[1]
  assert package == '__init__' or package in RANK, f'{path} has no layer'
  assert violations(str(path), (ROOT / path).read_text()) == []


@pytest.mark.parametrize(
  ('path', 'line', 'wrong'),
  [
    ('jdyn/ops/new.py', 'from jdyn.layers.dense import Dense', True),
    ('jdyn/fusions/new.py', 'from jdyn.encoders import ENCODERS', True),
    ('jdyn/models/new.py', 'import jdyn.build', True),
    ('jdyn/models/new.py', 'def f():\n  from jdyn import build', True),
    ('jdyn/data/new.py', 'from jdyn import training', True),
    ('jdyn/inference.py', 'from jdyn.train import main', True),
    ('jdyn/evaluate.py', 'import jdyn.report', True),
    ('jdyn/build.py', 'import jdyn.unheard', True),
    ('jdyn/data/new.py', 'from tests import toys', True),
    ('jdyn/models/new.py', 'from jdyn.models.unimodal import Unimodal', False),
    ('jdyn/train.py', 'from jdyn.training import cli', False),
    ('jdyn/fusions/new.py', 'from jdyn.layers import dense', False),
    ('jdyn/ops/new.py', 'import jax', False),
  ],
)
def test_the_rule_sees_what_it_should(path, line, wrong):
  assert bool(violations(path, line)) == wrong


@pytest.mark.parametrize('path', CONFIGS, ids=str)
def test_configs_are_plain_values(path):
  roots = {name.split('.')[0] for _, name in imports((ROOT / path).read_text())}
  assert roots <= {'configs', 'ml_collections'}


def test_data_are_read_without_jax():
  """`jdyn.data` is NumPy alone: a reader can be used, and tested, by itself."""
  modules = [
    '.'.join(path.with_suffix('').parts)
    for path in FILES
    if path.parts[1] == 'data' and path.stem != '__init__'
  ]
  program = (
    'import importlib, sys\n'
    f'for name in {modules}:\n'
    '  importlib.import_module(name)\n'
    "print([name for name in ('jax', 'flax', 'optax') if name in sys.modules])\n"
  )
  done = subprocess.run(
    [sys.executable, '-c', program],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert done.stdout.strip() == '[]', done.stderr
