"""The pages that nobody writes by hand: modules, and the list of experiments."""

import ast
import collections
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_API = """\
# Modules

From the docstrings. `import jdyn` has what `jdyn/__init__.py` lists; entries of the
tables (`FUSIONS`, `GATES`, ...) are what a config can name. A module imports only from
lower numbers of the layout in the README, and from its own folder.

```{{toctree}}
{pages}
```
"""
_CONFIGS = """\
# Experiments

Every file of `configs/` by the first line of its docstring, which goes on to say where
the experiment is from and what it scores. `configs/base.py` lists every key with its
default. Any of them starts with `python -m jdyn.train --config configs/NAME.py`.

| NAME | what it is |
|---|---|
{rows}
"""


def write(folder: Path) -> None:
  """Writes `api/*.md` and `configs.md`, and removes pages of modules that are gone."""
  pages = {**api_pages(modules()), 'configs.md': configs_page()}
  (folder / 'api').mkdir(parents=True, exist_ok=True)
  for page in (folder / 'api').glob('*.md'):
    if f'api/{page.name}' not in pages:
      page.unlink()
  for name, text in pages.items():
    path = folder / name
    # Sphinx reads again what has changed since the last build.
    if not path.exists() or path.read_text() != text:
      path.write_text(text)


def modules() -> list[str]:
  """Every module that is imported; commands, which are run, are left out."""
  found = []
  for path in sorted((ROOT / 'jdyn').rglob('*.py')):
    parts = path.relative_to(ROOT).with_suffix('').parts
    if not _is_command(path):
      found.append('.'.join(parts).removesuffix('.__init__'))
  return found


def api_pages(names: Sequence[str]) -> Mapping[str, str]:
  """A page per package, with its modules in alphabetical order, and their index."""
  packages = collections.defaultdict(list)
  for name in names:
    is_package = (ROOT / name.replace('.', '/')).is_dir()
    packages[name if is_package else name.rpartition('.')[0]].append(name)
  pages = {}
  for package, members in packages.items():
    sections = [f'# {package}\n', _section(package)]
    for name in members:
      if name != package:
        sections += [f'## {name.removeprefix(f"{package}.")}\n', _section(name)]
    pages[f'api/{package}.md'] = '\n'.join(sections)
  pages['api/index.md'] = _API.format(pages='\n'.join(packages))
  return pages


def configs_page() -> str:
  """The table of experiments."""
  rows = []
  for path in sorted((ROOT / 'configs').glob('*.py')):
    if path.stem != 'base':
      about = ast.get_docstring(ast.parse(path.read_text())).partition('\n')[0]
      rows.append(f'| `{path.stem}` | {about} |')
  return _CONFIGS.format(rows='\n'.join(rows))


def _section(name: str) -> str:
  options = '   :members:\n   :special-members: __call__\n'
  return f'```{{eval-rst}}\n.. automodule:: {name}\n{options}```\n'


def _is_command(path: Path) -> bool:
  """Whether the file is started with `python -m`."""
  return any(
    isinstance(node, ast.If) and '__main__' in ast.unparse(node.test)
    for node in ast.parse(path.read_text()).body
  )
