"""The notebooks: cleared of outputs, without definitions of their own, and they run."""

import ast
import json
import os
import re
from fnmatch import fnmatch

import pytest

from tests.conftest import COMPILE_FAST, ROOT

FOLDER = ROOT / 'notebooks'
SMALL = {
  'equilibrium': {'epochs': 1},
  'quickstart': {'epochs': 1},
  'segmentation': {'epochs': 1},
  'your_data': {'epochs': 1},
}
"""By notebook, what its cell `parameters` says in the test."""

# Lines for IPython instead of Python: `!git clone ...` and `%pip install ...`.
_ESCAPE = re.compile(r'^( *)[!%].*$', re.MULTILINE)


def read(name: str) -> dict:
  return json.loads((FOLDER / f'{name}.ipynb').read_text())


def code(name: str) -> dict[str, str]:
  """The source of the code cells by their ids."""
  cells = read(name)['cells']
  return {c['id']: ''.join(c['source']) for c in cells if c['cell_type'] == 'code'}


def parse(source: str) -> ast.Module:
  return ast.parse(_ESCAPE.sub(r'\1pass', source))


def test_every_notebook_is_tested():
  assert {path.stem for path in FOLDER.iterdir()} == set(SMALL)


@pytest.mark.parametrize('name', SMALL)
def test_notebooks_are_cleared(name):
  notebook = read(name)
  assert set(notebook['metadata']) == {'kernelspec', 'language_info'}
  assert set(notebook['metadata']['language_info']) == {'name'}
  assert notebook['metadata']['kernelspec']['name'] == 'python3'
  for cell in notebook['cells']:
    assert set(cell['metadata']) <= {'tags'}
    assert not cell.get('outputs')
    assert cell.get('execution_count') is None
  ids = [cell['id'] for cell in notebook['cells']]
  assert len(set(ids)) == len(ids)


@pytest.mark.parametrize('name', SMALL)
def test_notebooks_define_nothing(name):
  definitions = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef
  for cell, source in code(name).items():
    for node in ast.walk(parse(source)):
      assert not isinstance(node, definitions), f'{cell}: {node.name}'
      if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr):
        assert not isinstance(node.value, ast.Lambda), f'{cell}, line {node.lineno}'


@pytest.mark.parametrize('name', SMALL)
def test_the_first_cell_installs_where_nothing_is_installed(name):
  cells = code(name)
  assert next(iter(cells)) == 'install'
  assert cells['install'] == code('quickstart')['install']
  # Whatever reaches for the network stands below the one condition.
  for source in cells.values():
    assert all(found.group(1) for found in _ESCAPE.finditer(source))


@pytest.mark.parametrize(
  ('devices', 'tool', 'extra'),
  [
    (['/dev/accel0'], None, '[tpu]'),
    (['/dev/vfio/0'], None, '[tpu]'),
    ([], '/usr/bin/nvidia-smi', '[cuda12]'),
    ([], None, ''),
  ],
)
def test_the_accelerator_says_what_is_installed(monkeypatch, devices, tool, extra):
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  monkeypatch.setattr('glob.glob', lambda p: [d for d in devices if fnmatch(d, p)])
  monkeypatch.setattr('shutil.which', lambda name: tool)
  monkeypatch.setattr('sys.path', [])
  source = _ESCAPE.sub(r'\1pass', code('quickstart')['install'])
  with pytest.raises(ModuleNotFoundError, match='fill in `repository`'):
    exec(source, {})
  cell = {}
  exec(source.replace("repository = ''", "repository = 'https://host/jdyn'"), cell)
  assert cell['extra'] == extra


@pytest.mark.parametrize('name', SMALL)
def test_notebooks_run(name, tmp_path, monkeypatch):
  nbformat = pytest.importorskip('nbformat')
  nbclient = pytest.importorskip('nbclient')
  pytest.importorskip('ipykernel')
  notebook = nbformat.read(FOLDER / f'{name}.ipynb', as_version=4)
  nbformat.validate(notebook)
  (parameters,) = (
    c for c in notebook.cells if 'parameters' in c.metadata.get('tags', ())
  )
  names = re.findall(r'^(\w+) = ', parameters.source, re.MULTILINE)
  assert sorted(names) == sorted(SMALL[name])
  parameters.source = '\n'.join(f'{key} = {SMALL[name][key]!r}' for key in names)

  folder = os.environ.get('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'xla'))
  environment = {
    'JAX_COMPILATION_CACHE_DIR': folder,
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.1',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
    'JAX_PLATFORMS': 'cpu',
    'PYTHONPATH': str(ROOT),
    'TMPDIR': str(tmp_path),
    'XLA_FLAGS': COMPILE_FAST,
  }
  for variable, value in environment.items():
    monkeypatch.setenv(variable, value)
  nbclient.NotebookClient(
    notebook, timeout=600, resources={'metadata': {'path': str(tmp_path)}}
  ).execute()
