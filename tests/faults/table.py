"""The table of faults: what was tried, survived and lost."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Row:
  """What became of one kind of fault.

  Attributes:
    harness: that tried it.
    fault: in a few words.
    tried: how often.
    survived: how often everything went as promised: the run ended bit by bit as an
      undisturbed one, or the damage was refused with one clear error.
    lost: how often not.
    note: the worst of it, or how it was tried.
  """

  harness: str
  fault: str
  tried: int
  survived: int
  lost: int
  note: str = ''


def show(rows: Iterable[Row]) -> list[Row]:
  """Prints rows as they come, as a table in Markdown."""
  print('| harness | fault | tried | survived | lost | |')
  print('|---|---|---:|---:|---:|---|')
  shown = []
  for row in rows:
    cells = [row.harness, row.fault, row.tried, row.survived, row.lost, row.note]
    print('| ' + ' | '.join(map(str, cells)) + ' |', flush=True)
    shown.append(row)
  tried, survived, lost = (
    sum(getattr(row, name) for row in shown) for name in ('tried', 'survived', 'lost')
  )
  print(f'| all | | {tried} | {survived} | {lost} | |')
  return shown


def write(path: Path, rows: Iterable[Row]) -> None:
  """Writes rows as JSON."""
  path.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
