"""`python -m tests.faults`: tries what can go wrong, and prints what became of it.

Every harness alone is a sub-command, whose defaults are its long run; `all` runs them
one after another. The exit status is 1 if anything was lost.
"""

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.faults.table import Row, show, write

HARNESSES = ('kills', 'hosts', 'flips', 'numbers', 'fuzz', 'configs', 'folders')


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser('python -m tests.faults', description=__doc__)
  commands = parser.add_subparsers(dest='command', required=True)
  for name in (*HARNESSES, 'all'):
    modules = [_module(each) for each in (HARNESSES if name == 'all' else (name,))]
    summary = modules[0].__doc__.splitlines()[0] if name != 'all' else 'Every harness.'
    command = commands.add_parser(name, help=summary, description=summary)
    command.add_argument('--seed', type=int, default=0, help='of all that is random')
    command.add_argument('--json', type=Path, help='also write the table here')
    for module in modules:
      module.add_arguments(command)
  return parser


def _module(name: str):
  return importlib.import_module(f'tests.faults.{name}')


def _rows(options: argparse.Namespace) -> Iterator[Row]:
  names = HARNESSES if options.command == 'all' else (options.command,)
  for name in names:
    yield from _module(name).run(options)


def main(arguments: Sequence[str] | None = None) -> int:
  """Prints the table; 1 if anything was lost."""
  options = _parser().parse_args(arguments)
  rows = show(_rows(options))
  if options.json:
    write(options.json, rows)
  return int(any(row.lost for row in rows))


if __name__ == '__main__':
  sys.exit(main())
