"""README and docs/: the code runs, the commands parse, the links lead somewhere.

The Python blocks of a page are executed in their order, in a folder of their own.
Where one opens a run that a command on its page trains, that is done first, with one
epoch per stage. Commands are started up to where their work would begin.
"""

import argparse
import contextlib
import functools
import importlib
import importlib.util
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
import types
import typing
from pathlib import Path

import pytest
from absl import app, flags

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / 'docs'


class Block(typing.NamedTuple):
  """A fenced block of a page: the words behind the fence, and what is in it."""

  language: str
  text: str
  line: int


class Page(typing.NamedTuple):
  """A page; `prose` is what stands outside of its blocks."""

  name: str
  path: Path
  prose: str
  blocks: tuple[Block, ...]

  def of(self, language: str) -> list[Block]:
    return [block for block in self.blocks if block.language == language]


_FENCED = re.compile(r'^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$', re.M | re.S)


def _read(path: Path) -> Page:
  text = path.read_text()
  found = [
    Block(
      match['language'], match['text'], 1 + text.count('\n', 0, match.start('text'))
    )
    for match in _FENCED.finditer(text)
  ]
  name = path.relative_to(ROOT).as_posix()
  return Page(name, path, _FENCED.sub('', text), tuple(found))


PAGES = [_read(path) for path in sorted([*ROOT.glob('*.md'), *DOCS.glob('*.md')])]


def pages(language: str):
  """A parameter for every page that has such a block."""
  return [pytest.param(page, id=page.name) for page in PAGES if page.of(language)]


# Code


def _train(command: str, workdir: Path) -> None:
  """Runs a training command, with one epoch per stage."""
  from jdyn.training import loop

  name = re.search(r'configs/(\w+)\.py', command)[1]
  config = importlib.import_module(f'configs.{name}').get_config()
  for key, value in re.findall(r'--config\.([\w.]+)=(\S+)', command):
    *parents, last = key.split('.')
    entry = functools.reduce(lambda found, key: found[key], parents, config)
    entry[last] = type(entry[last])(value)
  for stage in (config, *config.experts.values()):
    stage.epochs = 1
  loop.train(config, workdir)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """Runs on the digits, which several pages open and none changes: trained once."""
  folder, found = tmp_path_factory.mktemp('runs'), {}

  def get(command: str) -> Path:
    if command not in found:
      _train(command, folder / str(len(found)))
      found[command] = folder / str(len(found))
    return found[command]

  return get


@pytest.fixture(scope='module')
def load():
  """`jdyn.load`, once per run: what it compiled serves the next page as well."""
  from jdyn import inference

  load = functools.cache(inference.load)
  return lambda workdir: load(Path(workdir).resolve())


@pytest.fixture
def tables():
  """Blocks may add to the tables; afterwards they are as before."""
  from configs import base
  from jdyn.data.sources import SOURCES
  from jdyn.fusions import FUSIONS
  from jdyn.gates import GATES

  all_tables = (FUSIONS, GATES, SOURCES, base.FUSIONS, base.DATASETS)
  before = [dict(table) for table in all_tables]
  yield
  for table, entries in zip(all_tables, before, strict=True):
    table.clear()
    table.update(entries)


def _commands(page: Page) -> list[str]:
  """The lines of the page's shell blocks."""
  text = '\n'.join(block.text for block in page.of('sh'))
  return [line for line in text.replace('\\\n', ' ').splitlines() if line.strip()]


@pytest.mark.usefixtures('compile_fast', 'tables')
@pytest.mark.parametrize('page', pages('python'))
def test_the_code_of_a_page_runs(page, trained, load, tmp_path, monkeypatch):
  from jdyn import inference
  from jdyn.training import loop

  # What a report needs is tested with the report; drawing it takes seconds.
  monkeypatch.setattr(loop, 'write_report', lambda workdir: workdir / 'report.html')
  monkeypatch.setattr(inference, 'load', load)
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'runs').mkdir()
  module = types.ModuleType('page')
  monkeypatch.setitem(sys.modules, 'page', module)  # Where its classes are looked for.
  for block in page.of('python'):
    for name in re.findall(r"load\('runs/(\w+)'\)", block.text):
      if not (workdir := tmp_path / 'runs' / name).exists():
        # Where no command does, the code trains it.
        for command in (c for c in _commands(page) if f'configs/{name}.py' in c):
          if 'data.root' in command:
            _train(command, workdir)
          else:
            workdir.symlink_to(trained(command))
          break
    code = compile('\n' * (block.line - 1) + block.text, page.name, 'exec')
    exec(code, module.__dict__)


# Commands


class _Started(BaseException):
  """A command has understood its arguments."""


@contextlib.contextmanager
def _parsing_only(monkeypatch):
  """Commands stop where their work would begin, and leave no flags behind."""
  from jdyn.training import cli

  parse = argparse.ArgumentParser.parse_args

  def parse_args(self, *args, **kwargs):
    raise _Started(parse(self, *args, **kwargs))

  def run(main, argv=None, flags_parser=flags.FLAGS):
    main(flags_parser(argv or sys.argv))

  def begin():
    raise _Started

  known = set(flags.FLAGS)
  with monkeypatch.context() as patch:
    patch.setattr(argparse.ArgumentParser, 'parse_args', parse_args)
    patch.setattr(app, 'run', run)
    patch.setattr(cli, 'start_logging', begin)
    patch.chdir(ROOT)
    try:
      yield patch
    finally:
      for name in set(flags.FLAGS) - known:
        delattr(flags.FLAGS, name)


def _check_module(words: list[str], monkeypatch) -> None:
  """Starts `python -m MODULE ...`: its configs, keys, flags and choices exist."""
  module, *arguments = words
  with _parsing_only(monkeypatch) as patch:
    patch.setattr(sys, 'argv', [module, *arguments])
    with pytest.raises(_Started) as started:
      runpy.run_module(module, run_name='__main__', alter_sys=True)
  for options in started.value.args:
    # The benchmarks name configs without their folder.
    named = vars(options).get('configs', [])
    named = [*named, *filter(None, [vars(options).get('config')])]
    for name in named:
      assert (ROOT / 'configs' / f'{name}.py').is_file(), name


_EXTRAS = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project'][
  'optional-dependencies'
]
_TOOLS = ('pip', 'pytest', 'ruff', 'sphinx', 'uv', 'venv')


def _check(command: str, monkeypatch) -> None:
  """Checks one command of a shell line."""
  words = shlex.split(command, comments=True)
  extras = [words[i + 1] for i, word in enumerate(words) if word == '--extra']
  extras += re.findall(r'\.\[(\w+)\]', command)
  assert set(extras) <= set(_EXTRAS), command
  if '-m' in words:
    module, *arguments = words[words.index('-m') + 1 :]
    if module.startswith(('jdyn.', 'benchmarks.', 'tests.')):
      if arguments and '--help' not in arguments:
        _check_module([module, *arguments], monkeypatch)
      else:
        assert importlib.util.find_spec(module)
    else:
      assert module in _TOOLS, module
  elif words:
    program = words[1] if words[0] in ('bash', 'sbatch') else words[0]
    known = Path(program).name in _TOOLS
    assert known or (ROOT / program).is_file(), command
  for word in words:
    if re.match(r'(configs|docs|tests)/', word) and '_build' not in word:
      assert (ROOT / word).exists(), word


@pytest.mark.parametrize('page', pages('sh'))
def test_the_commands_of_a_page_start(page, monkeypatch):
  for line in _commands(page):
    for command in line.split(' && '):
      _check(command, monkeypatch)


_PLACES = {
  'configs/X.py': 'configs/digits_dyn.py',
  'KEY=V1,V2': 'loss.budget=0,.1',
  '--level L': '--level 1',
  'convert KIND': 'convert esanet',
}


@pytest.mark.parametrize(
  ('page', 'command'),
  [
    pytest.param(page, command, id=f'{page.name}: {command}')
    for page in PAGES
    for command in re.findall(r'`((?:python -m|pytest) [^`]+)`', page.prose)
  ],
)
def test_a_command_in_a_sentence_starts(page, command, monkeypatch):
  command = ' '.join(command.split())
  for place, example in _PLACES.items():
    command = command.replace(place, example)
  _check(command, monkeypatch)


# What the pages say of files


_ADDED = (
  'configs/digits_attentive.py',
  'jdyn/data/sources/pumps.py',
  'jdyn/fusions/maximum.py',
  'jdyn/gates/bounded.py',
)
"""Files that a reader of the how-to pages would write."""


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
  folders = 'benchmarks|configs|docs|jdyn|launch|notebooks|tests'
  for name in re.findall(rf'`((?:{folders})/[\w./]+\.\w+)`', page.prose):
    assert name in (*_ADDED, *_PLACES) or (ROOT / name).exists(), name


def test_what_the_pages_add_keeps_the_contracts(tmp_path):
  """Their files and table lines, in a copy of the project, pass the tests they name."""
  ignore = shutil.ignore_patterns('__pycache__', '_build', 'generated')
  for name in ('configs', 'jdyn', 'tests'):
    shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
  shutil.copy(ROOT / 'pyproject.toml', tmp_path)
  for page in PAGES:
    for name in _ADDED:
      if f'`{name}`' in page.prose:
        (tmp_path / name).write_text(page.of('python')[0].text)
    for name, lines in _changes(page):
      (tmp_path / name).write_text(_changed(tmp_path / name, lines))
  chosen = ' or '.join([*(Path(name).stem for name in _ADDED), 'lists', 'has_a_case'])
  tests = [
    f'tests/contracts/test_{name}.py' for name in ('fusions', 'gates', 'sources')
  ]
  command = [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider']
  done = subprocess.run(
    [*command, *tests, 'tests/test_configs.py', '-k', chosen],
    cwd=tmp_path,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout
  assert int(re.search(r'(\d+) passed', done.stdout)[1]) > 20


def _changes(page: Page):
  """By file, the lines of the page's diffs: ' ' is there, '+' comes, '-' goes."""
  for block in page.of('diff'):
    for part in block.text.split('--- ')[1:]:
      name, *lines = part.splitlines()
      yield name, lines


def _changed(path: Path, lines: list[str]) -> str:
  """The text of a file after a change, whose place must be plain."""
  found, place = path.read_text().splitlines(), None
  for line in lines:
    sign, text = line[0], line[1:]
    if sign == '+':
      if place is None:  # Before the first line that is named.
        first = next(line[1:] for line in lines if line[0] != '+')
        place = found.index(first)
      found.insert(place, text)
      place += 1
    else:
      assert found.count(text) == 1, f'{path}: {text!r}'
      place = found.index(text) + (sign == ' ')
      if sign == '-':
        del found[place]
  return '\n'.join([*found, ''])


# Links


def _anchors(path: Path) -> set[str]:
  """The headings of a page, as GitHub and MyST name them in an address."""
  headings = re.findall(r'^#+ (.+)$', _read(path).prose, flags=re.M)
  return {
    re.sub(r'[^\w\- ]', '', heading).strip().lower().replace(' ', '-')
    for heading in headings
  }


_LINKS = [
  pytest.param(page, link, id=f'{page.name}: {link}')
  for page in PAGES
  for link in re.findall(r'\]\(([^)\s]+)\)', page.prose)
]


@pytest.mark.parametrize(('page', 'link'), _LINKS)
def test_a_link_leads_somewhere(page, link):
  """Those to other sites are only looked at: `python -m sphinx -b linkcheck` asks."""
  if '://' in link:
    assert re.fullmatch(r'https://[\w.-]+\.[a-z]+(/[\w./%#?=&~+-]*)?', link)
    return
  name, _, anchor = link.partition('#')
  target = (page.path.parent / name) if name else page.path
  assert target.exists(), link
  assert not anchor or anchor in _anchors(target), link


def test_every_page_is_in_the_contents():
  (index,) = (page for page in PAGES if page.name == 'docs/index.md')
  listed = {line for block in index.blocks for line in block.text.splitlines()}
  assert {path.stem for path in DOCS.glob('*.md')} - {'index'} <= listed


# The pages that are made of docstrings


def _load(name: str):
  spec = importlib.util.spec_from_file_location(f'docs_{name}', DOCS / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_every_module_and_every_config_has_its_place():
  generate = _load('generate')
  from tests.test_layers import COMMANDS, FILES

  names = {'.'.join(p.with_suffix('').parts).removesuffix('.__init__') for p in FILES}
  commands = {f'jdyn.{name}' for name in COMMANDS}
  text = '\n'.join(generate.api_pages(generate.modules()).values())
  assert set(re.findall(r'automodule:: (\S+)', text)) == names - commands
  configs = {path.stem for path in (ROOT / 'configs').glob('*.py')} - {'base'}
  table = generate.configs_page()
  assert set(re.findall(r'^\| `(\w+)` \| \S', table, flags=re.M)) == configs


@pytest.mark.parametrize(
  ('docstring', 'expected'),
  [
    ('Some `f(x)`s.', r'Some ``f(x)``\ s.'),
    ('Of |x| and `|y|`.', r'Of \|x\| and ``|y|``.'),
    (
      'Costs\n\n    max(|a|, 0)\n\nper pair.',
      'Costs\n\n::\n\n    max(|a|, 0)\n\nper pair.',
    ),
    ('Args:\n  t: T.\n  n: of it.', 'Args:\n  t: \\T.\n  n: of it.'),
  ],
)
def test_docstrings_keep_their_meaning(docstring, expected):
  assert '\n'.join(_load('docstrings').to_rst(docstring.split('\n'))) == expected


def test_signatures_say_nothing_of_flax():
  clean = _load('docstrings').without_flax_fields
  rest = 'parent=<flax.linen.module._Sentinel object>, name=None)'
  assert clean(f'(scale=1.0, {rest}') == '(scale=1.0)'
  assert clean(f'({rest}') == '()'


def test_the_picture_can_be_drawn_again(tmp_path):
  drawn = tmp_path / 'gate.svg'
  script = DOCS / 'images' / 'draw.py'
  subprocess.run([sys.executable, script, '--out', drawn], check=True)
  for path in (drawn, DOCS / 'images' / 'gate.svg'):
    assert '<svg' in path.read_text()
