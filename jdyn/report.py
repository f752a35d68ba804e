"""Writes `report.html` of a finished run: `python -m jdyn.report --workdir DIR`."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> None:
  """Writes the report and prints its path; exits with 1 if the run is not whole."""
  parser = argparse.ArgumentParser(prog='python -m jdyn.report', description=__doc__)
  parser.add_argument(
    '--workdir', type=Path, required=True, help='the folder of a finished run'
  )
  options = parser.parse_args(arguments)
  # Imports wait until here, so that --help is quick.
  from jdyn.data.dataset import DataError
  from jdyn.evaluators.report import write_report

  try:
    print(write_report(options.workdir))
  except (DataError, OSError) as error:
    parser.exit(1, f'error: {error}\n')


if __name__ == '__main__':
  main()
