"""`report.html`: what a finished run did, on one page that needs no other file."""

import os
from pathlib import Path


def write_report(workdir: Path) -> Path:
  """Writes `report.html` from the files of a finished run, and returns its path.

  The page depends on those files alone: no clock, no model, no dataset. It is
  written atomically, and the same files give the same bytes.

  Args:
    workdir: the folder of the run.

  Raises:
    DataError: a file of the run is missing, damaged or of another run.
  """
  # Matplotlib and the page wait until there is a run to report.
  from jdyn.evaluators.report.page import page
  from jdyn.evaluators.report.run import read_run

  path = workdir / 'report.html'
  partial = path.with_suffix('.partial')
  partial.write_text(page(read_run(workdir)), encoding='utf-8')
  os.replace(partial, path)
  return path
