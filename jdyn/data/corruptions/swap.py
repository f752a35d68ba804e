"""Features that change places."""

import dataclasses
from typing import ClassVar

import numpy as np

MODES = ('exchange', 'repo_copy')
"""What happens to neighbours, see `Swap`."""


@dataclasses.dataclass(frozen=True)
class Swap:
  """Neighbouring features of a table change places with probability `level`.

  Attributes:
    mode: `exchange`: the features are paired off, beginning with the first or the
      second, and the pairs exchanged. `repo_copy`: MultiBench's `swap_entry`, which
      from the second feature on overwrites a feature with the one before it, and
      then the one before it with that: nothing is swapped, and values spread.
  """

  mode: str = 'exchange'

  unit: ClassVar[str] = 'share of pairs of neighbours'
  max_level: ClassVar[float] = 1.0
  kinds: ClassVar[tuple[str, ...]] = ('features',)

  def __post_init__(self):
    """Checks the options; raises ValueError."""
    if self.mode not in MODES:
      raise ValueError(f'Unknown mode {self.mode!r}; expected one of {MODES}.')

  def __call__(self, x, level, rng, reference):
    """See `Corruption`."""
    del reference
    source = np.arange(len(x))  # Where each feature's value comes from.
    if self.mode == 'exchange':
      first = rng.integers(2)
      left = first + 2 * np.flatnonzero(rng.random((len(x) - first) // 2) < level)
      source[left], source[left + 1] = left + 1, left
    else:
      source[1:][rng.random(len(x) - 1) < level] = 0
      source = np.maximum.accumulate(source)
    return x[source]
