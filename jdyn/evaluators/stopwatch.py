"""A budget in milliseconds: a table of measured times, corrected by the clock.

What a batch takes depends on its mix of paths, and on what else the machine does. A
table of times by MACs, measured before, misses what is asked by as much as the machine
has changed since. So, batch after batch, the table is scaled by how long batches really
took, and what was spent too much or too little is settled with the next ones, as the
ledger of `jdyn.evaluators.budget` does it for MACs.
"""

import numpy as np

MEMORY = 8
"""Batches over which the machine's speed is averaged and a balance is settled."""


class Stopwatch:
  """Says how many MACs the next batch may execute.

  Attributes:
    macs: per example, of the next batch.
  """

  def __init__(self, asked: float, macs: np.ndarray, seconds: np.ndarray):
    """Starts with the table as it is.

    Args:
      asked: seconds per example, within the table.
      macs: `[G]`, rising.
      seconds: `[G]` per example, not falling.
    """
    self._asked, self._macs, self._seconds = asked, macs, seconds
    self._balance = 0.0  # Seconds that were allowed and not spent.
    self._slowness = 1.0  # Times the table.
    self._batches = 0
    self.macs = self._macs_for(asked)

  def book(self, seconds: float, size: int) -> None:
    """Notes what a batch of so many examples took at `macs`."""
    self._batches += 1
    expected = size * float(np.interp(self.macs, self._macs, self._seconds))
    step = 1 / min(self._batches, MEMORY)
    self._slowness += step * (seconds / expected - self._slowness)
    self._balance += size * self._asked - seconds
    self.macs = self._macs_for(self._asked + self._balance / (MEMORY * size))

  def _macs_for(self, seconds: float) -> float:
    """MACs per example that take so long; the nearest end beyond the table."""
    return float(np.interp(seconds, self._slowness * self._seconds, self._macs))
