"""`report.html` of a finished run, and two finished runs side by side.

`python -m jdyn.report --workdir DIR` writes the report.
`python -m jdyn.report compare RUN_A RUN_B` compares the predictions of two runs.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> None:
  """Does what was asked for; exits with 1 if a run is not whole."""
  parser = argparse.ArgumentParser(
    prog='python -m jdyn.report',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--workdir', type=Path, help='the folder of a finished run')
  commands = parser.add_subparsers(dest='command', metavar='compare')
  _add_compare(commands)
  options = parser.parse_args(arguments)
  if (options.workdir is None) == (options.command is None):
    parser.error('give either --workdir, or compare with two folders.')
  # Imports wait until here, so that --help is quick.
  from jdyn.data.dataset import DataError

  try:
    if options.command:
      _compare(options)
    else:
      _report(options.workdir)
  except (DataError, OSError) as error:
    parser.exit(1, f'error: {error}\n')


def _add_compare(commands) -> None:
  parser = commands.add_parser(
    'compare',
    help='two finished runs on the same examples',
    description='Prints how the scores of two runs differ on the same examples and '
    'seeds: over the seeds (Student t), over seeds and examples (paired bootstrap), '
    'and for each seed (exact McNemar). Differences are second minus first.',
  )
  add = parser.add_argument
  add('first', type=Path, metavar='RUN_A', help='folder of the run to compare with')
  add('second', type=Path, metavar='RUN_B', help='folder of the other run')
  add('--split', default='test', choices=('test', 'valid'), help='(%(default)s)')
  add('--stage', default='main', help='main, or the name of an expert (%(default)s)')
  add(
    '--json',
    type=Path,
    help='where to write the numbers (RUN_B/comparisons/STAGE_SPLIT_RUN_A.json)',
  )


def _report(workdir: Path) -> None:
  from jdyn.evaluators.report import write_report

  print(write_report(workdir))


def _compare(options: argparse.Namespace) -> None:
  from jdyn.data.sealed import write_sealed
  from jdyn.evaluators.compare import compare
  from jdyn.evaluators.tables import as_text

  first, second = options.first, options.second
  found = compare(first, second, options.split, options.stage)
  name = f'{found.stage}_{found.split}_{first.resolve().name}.json'
  path = options.json or second / 'comparisons' / name
  path.parent.mkdir(parents=True, exist_ok=True)
  write_sealed(path, found.as_json())
  print(
    f'first {first}, second {second}; stage {found.stage}, {found.split} split, '
    f'n = {found.count}, data {found.origin}, seeds {", ".join(map(str, found.seeds))}'
  )
  for table in found.tables():
    print(f'\n{as_text(table)}')
  print(f'\nWritten: {path}')


if __name__ == '__main__':
  main()
