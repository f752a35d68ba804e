"""Handwritten digits that ship inside scikit-learn: real data for a quick start.

1,797 images of 8 x 8 pixels (UCI optical recognition of handwritten digits). The
two modalities are two resolutions of one image, so that a gate has a cheap and an
expensive look at the same thing.
"""

import dataclasses
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from jdyn.data.dataset import DataError, DataSpec, ModalitySpec, Split
from jdyn.data.files import as_classes, read_table, require, row_ids
from jdyn.data.holdout import hold_out

_SCALE = 16.0  # Pixels are counts from 0 to 16.


@dataclasses.dataclass(frozen=True)
class Digits:
  """The images of scikit-learn's `load_digits`, split at random within each class.

  Modalities, both in [0, 1]: `fine`, the 64 pixels, and `coarse`, the means of
  their 16 blocks of 2 x 2.

  Attributes:
    valid_fraction: of the images, for validation.
    test_fraction: of the images, for the test.
    split_seed: of the random split; part of the dataset, not of a run.
  """

  layout: ClassVar[str] = 'data that ship with scikit-learn, without any folder'
  bundled: ClassVar[bool] = True

  valid_fraction: float = 0.15
  test_fraction: float = 0.25
  split_seed: int = 0

  def spec(self, root: Path) -> DataSpec:
    """Ten classes, modalities of 16 and 64 values; `root` is not read."""
    del root
    return DataSpec(
      name='digits',
      task='multiclass',
      modalities={'coarse': ModalitySpec((16,)), 'fine': ModalitySpec((64,))},
      num_outputs=10,
      class_names=tuple('0123456789'),
    )

  def files(self, root: Path) -> list[Path]:
    """The table inside scikit-learn; raises DataError if it is not there."""
    del root
    # The table is read without scikit-learn: importing that takes two seconds.
    package = importlib.util.find_spec('sklearn')
    if package is None or package.origin is None:
      raise DataError('scikit-learn is not installed. Run: pip install scikit-learn')
    folder = Path(package.origin).parent / 'datasets' / 'data'
    return require(folder, ['digits.csv.gz'], self.layout)

  def load(self, root: Path) -> Mapping[str, Split]:
    """The three splits; raises DataError if a fraction leaves one of them empty."""
    (path,) = self.files(root)
    table = read_table(path, columns=65)
    fine = (table[:, :64] / _SCALE).astype(np.float32)
    blocks = fine.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4))
    everything = Split(
      inputs={'coarse': blocks.reshape(-1, 16), 'fine': fine},
      label=as_classes(table[:, 64], 10, str(path)),
      ids=row_ids('digit', len(table)),
    )
    rest, test = hold_out(everything.label, self.test_fraction, self.split_seed)
    train, valid = hold_out(
      everything.label[rest],
      self.valid_fraction / (1 - self.test_fraction),
      self.split_seed,
    )
    return {
      'train': everything.select(rest[train]),
      'valid': everything.select(rest[valid]),
      'test': everything.select(test),
    }

  def write_stand_in(self, root: Path, seed: int) -> None:
    """Writes nothing: the data are real and need no stand-in."""
