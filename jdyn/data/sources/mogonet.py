"""Multi-omics tables in the layout of MOGONET (Wang et al., Nat. Commun. 2021).

Three views of one patient: mRNA expression, DNA methylation and miRNA expression.
Published values lie in [0, 1], but the training values of few columns span it, and
some models scale them once more.
MOGONET's own code has no validation split and reports the best test epoch; here a
validation split is carved from train and the test split is left alone.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from jdyn.data import stand_in
from jdyn.data.dataset import DataError, DataSpec, ModalitySpec, Split
from jdyn.data.files import read_labels, read_table, require, row_ids
from jdyn.data.holdout import hold_out

_VIEWS = {'mrna': 1, 'methylation': 2, 'mirna': 3}
_KINDS = (*_VIEWS.values(), 'labels')

_LAYOUT = """\
<root>/1_tr.csv  1_te.csv         mRNA, one row per patient, no header
       2_tr.csv  2_te.csv         DNA methylation
       3_tr.csv  3_te.csv         miRNA
       labels_tr.csv labels_te.csv  one class number per row
       1_featname.csv ...         optional names of the columns, not read
from the folder {folder} of https://github.com/txWang/MOGONET"""


@dataclasses.dataclass(frozen=True)
class Mogonet:
  """The reader; `Rosmap` and `Brca` say what the classes are.

  Attributes:
    valid_fraction: of the training patients, held out within each class.
    split_seed: of that choice; part of the dataset, not of a run.
    scaling: `published` leaves the values alone. `train` maps each column to [0, 1] by
      its range in the training split, and the other splits with it, unclipped.
      `train_file`, as in the code of MM-Dynamics and of DEQ fusion, takes the range in
      the training file, held-out patients included.
  """

  layout: ClassVar[str]
  bundled: ClassVar[bool] = False
  name: ClassVar[str]
  class_names: ClassVar[tuple[str, ...]]
  widths: ClassVar[Mapping[str, int]]
  """Of the views as published; only the stand-in needs them."""

  valid_fraction: float = 0.2
  split_seed: int = 0
  scaling: Literal['published', 'train', 'train_file'] = 'published'

  def __post_init__(self):
    """Checks `scaling`; raises DataError."""
    if self.scaling not in (known := ('published', 'train', 'train_file')):
      raise DataError(f'scaling={self.scaling!r}; expected one of {known}.')

  def spec(self, root: Path) -> DataSpec:
    """Views as wide as the training tables; raises DataError if one is unreadable."""
    self.files(root)
    return DataSpec(
      name=self.name,
      task='multiclass',
      modalities={
        view: ModalitySpec((read_table(root / f'{number}_tr.csv').shape[1],))
        for view, number in _VIEWS.items()
      },
      num_outputs=len(self.class_names),
      class_names=self.class_names,
    )

  def files(self, root: Path) -> list[Path]:
    """The six tables and two label columns; raises DataError if one is absent."""
    names = [f'{kind}_{part}.csv' for part in ('tr', 'te') for kind in _KINDS]
    return require(root, names, self.layout)

  def load(self, root: Path) -> Mapping[str, Split]:
    """The splits; raises DataError on tables that are damaged or do not fit."""
    self.files(root)
    train, test = self._read(root, 'tr', 'train'), self._read(root, 'te', 'test')
    kept, held = hold_out(train.label, self.valid_fraction, self.split_seed)
    splits = {'train': train.select(kept), 'valid': train.select(held), 'test': test}
    if self.scaling == 'published':
      return splits
    seen = train if self.scaling == 'train_file' else splits['train']
    return {name: _scaled(split, seen) for name, split in splits.items()}

  def write_stand_in(self, root: Path, seed: int) -> None:
    """120 training and 60 test patients; mRNA shows the class most often."""
    rng = np.random.default_rng(seed)
    classes = len(self.class_names)
    label = stand_in.labels(rng, 180, classes)
    parts = {'tr': slice(0, 120), 'te': slice(120, None)}
    signal = stand_in.one_hot(label, classes)
    for (view, number), clear in zip(_VIEWS.items(), (0.9, 0.7, 0.5), strict=True):
      features = stand_in.view(rng, signal, self.widths[view], clear=clear, noise=2.0)
      unit = 1 / (1 + np.exp(-features))
      for part, rows in parts.items():
        np.savetxt(root / f'{number}_{part}.csv', unit[rows], '%.4f', delimiter=',')
    for part, rows in parts.items():
      np.savetxt(root / f'labels_{part}.csv', label[rows])

  def _read(self, root: Path, part: str, split: str) -> Split:
    label = read_labels(root / f'labels_{part}.csv', len(self.class_names))
    inputs = {}
    for view, number in _VIEWS.items():
      path = root / f'{number}_{part}.csv'
      table = read_table(path)
      if len(table) != len(label):
        raise DataError(
          f'{path}: {len(table)} rows for the {len(label)} of labels_{part}.csv. '
          'Take both from the same release.'
        )
      inputs[view] = table.astype(np.float32)
    return Split(inputs, label, row_ids(split, len(label)))


def _scaled(split: Split, seen: Split) -> Split:
  """A split with the columns of `seen` mapped to [0, 1]; constant ones to 0."""
  inputs = {}
  for view, table in seen.inputs.items():
    low = table.min(axis=0)
    span = table.max(axis=0) - low
    inputs[view] = (split.inputs[view] - low) / np.where(span > 0, span, 1)
  return dataclasses.replace(split, inputs=inputs)


class Rosmap(Mogonet):
  """ROSMAP: Alzheimer's disease against normal control, 245 train and 106 test."""

  layout = _LAYOUT.format(folder='ROSMAP')
  name = 'rosmap'
  class_names = ('control', 'alzheimer')
  widths: ClassVar[Mapping[str, int]] = {'mrna': 200, 'methylation': 200, 'mirna': 200}


class Brca(Mogonet):
  """BRCA: PAM50 subtypes of breast invasive carcinoma, 612 train and 263 test."""

  layout = _LAYOUT.format(folder='BRCA')
  name = 'brca'
  class_names = ('normal-like', 'basal-like', 'HER2-enriched', 'luminal A', 'luminal B')
  widths: ClassVar[Mapping[str, int]] = {
    'mrna': 1000,
    'methylation': 1000,
    'mirna': 503,
  }
