"""fastMRI's knees: four findings from the magnitude and the phase of an image.

Single-coil k-space of Zbontar et al., "fastMRI", 2018, with the annotations of
fastMRI+ (Zhao et al., 2022), sliced as I2M2 (Madaan et al., 2024) does it. Magnitude
and phase are those of the complex image, not of the k-space: the released model
takes both from whatever the released code's missing loader calls `sc_kspace`, which
in its authors' earlier release is the image. As there, no intensity is normalised,
although magnitudes around 1e-4 are small beside the epsilon of a GroupNorm.

A slice is transformed when its batch is read, so nothing but the k-space is kept on
disk. The check before training reads every slice once.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from jdyn.data import stand_in
from jdyn.data.balance import balanced_weights
from jdyn.data.dataset import DataError, DataSpec, ModalitySpec, Split
from jdyn.data.files import require
from jdyn.data.knee_slices import (
  LABELS,
  METADATA,
  SPLITS,
  Slice,
  label,
  read_image,
  read_table,
  write_slice,
  write_table,
)

_VIEWS = {'magnitude': np.abs, 'phase': np.angle}
_KEPT = 64  # Images: as many as the batches that reading threads work on.


@dataclasses.dataclass(frozen=True)
class FastMRI:
  """Knees: `magnitude`, and `phase` in radians, each `[image_size, image_size, 1]`.

  The labels are `abnormal` (a finding other than those that follow), `mtear` (a torn
  meniscus), `acl` and `cartilage`. Slices that the table puts in no split are left out.

  Attributes:
    image_size: pixels along the side of the centre that is cropped.
    balance: `loss` weighs presence and absence of each label inversely to how often
      they occur in training (the weights of the release are not part of it); `none`
      does not.
  """

  layout: ClassVar[str] = f"""\
<root>/{METADATA}  columns volume_id, slice_id, labels, data_split of
       {', '.join(SPLITS.values())}; others are not read
       <volume>/knee_singlecoil_<volume>_<slice>.h5  sc_kspace, complex (640, 400)
built by: python -m jdyn.prepare fastmri --volumes DIR --annotations knee.csv
            --files knee_file_list.csv --out <root>
from: https://fastmri.med.nyu.edu (volumes, on request) and the folder Annotations of
      https://github.com/microsoft/fastmri-plus"""
  bundled: ClassVar[bool] = False

  image_size: int = 320
  balance: Literal['loss', 'none'] = 'loss'

  def __post_init__(self):
    """Raises ValueError for an option that does not exist."""
    if self.balance not in ('loss', 'none'):
      raise ValueError(f"balance={self.balance!r}; expected 'loss' or 'none'.")
    if self.image_size < 1:
      raise ValueError(f'image_size={self.image_size}; expected at least 1.')

  def spec(self, root: Path) -> DataSpec:
    """Class weights are counted in the table; raises DataError without it."""
    (table,) = require(root, [METADATA], self.layout)
    train = [label(row.findings) for row in read_table(table) if row.split == 'train']
    shape = (self.image_size, self.image_size, 1)
    return DataSpec(
      name='fastmri',
      task='multilabel',
      modalities={name: ModalitySpec(shape) for name in _VIEWS},
      num_outputs=len(LABELS),
      class_names=LABELS,
      class_weights=balanced_weights(train) if self.balance == 'loss' else (),
    )

  def files(self, root: Path) -> list[Path]:
    """The table and the slices in use; raises DataError if one is absent."""
    (table,) = require(root, [METADATA], self.layout)
    slices = [row for row in read_table(table) if row.split]
    return [table, *require(root, [row.path for row in slices], self.layout)]

  def load(self, root: Path) -> Mapping[str, Split]:
    """The splits of the table; raises DataError if one is empty, or a volume split."""
    table, *_ = self.files(root)
    slices = read_table(table)
    _check_volumes(table, slices)
    by_split = {name: [row for row in slices if row.split == name] for name in SPLITS}
    if empty := [SPLITS[name] for name, rows in by_split.items() if not rows]:
      raise DataError(
        f'{table}: no slice has the data_split {empty}. Is the table complete?'
      )
    return {name: self._split(root, rows) for name, rows in by_split.items()}

  def _split(self, root: Path, slices: Sequence[Slice]) -> Split:
    images = _Images([root / row.path for row in slices], self.image_size)
    labels = [label(row.findings) for row in slices]
    return Split(
      inputs={name: _View(images, view) for name, view in _VIEWS.items()},
      label=np.array(labels, np.float32).reshape(len(slices), len(LABELS)),
      ids=np.array([f'{row.volume}_{row.number}' for row in slices]),
    )

  def write_stand_in(self, root: Path, seed: int) -> None:
    """36 slices of 12 volumes; findings change brightness and phase of four quarters.

    The phase shows those of fewer slices. The table has a slice in no split, too.
    """
    rng = np.random.default_rng(seed)
    names = ('Joint Effusion', 'Meniscus Tear', 'ACL High Grade Sprain', 'cartilage')
    splits = ['train'] * 8 + ['valid'] * 2 + ['test'] * 2
    size = 3 * len(splits)
    # Every label is present and absent in every split, half of the time.
    patterns = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [1, 1, 0, 0]])
    present = patterns[np.arange(size) % 3] ^ (np.arange(size) % 2)[:, None]
    seen = {
      name: stand_in.view(rng, present - 0.5, len(LABELS), clear=share, noise=0.1)
      for name, share in (('magnitude', 1.0), ('phase', 0.8))
    }
    slices = []
    for i in range(size):
      findings = tuple(itertools.compress(names, present[i]))
      row = Slice(f'file{i // 3}', i % 3, findings, splits[i // 3], self._kspace_shape)
      (root / row.volume).mkdir(exist_ok=True)
      kspace = self._kspace(seen['magnitude'][i], seen['phase'][i])
      arrays = {'sc_kspace': kspace, 'sampled_indices': np.array([0, kspace.shape[1]])}
      # Most of the k-space is empty, and compressed that takes no place.
      write_slice(root / row.path, arrays, findings, compression='gzip')
      slices.append(row)
    write_table(root / METADATA, [*slices, Slice('file99', 0, (), '')])

  @property
  def _kspace_shape(self) -> tuple[int, int]:
    """As wide around the image as the real one."""
    return 2 * self.image_size, self.image_size * 5 // 4

  def _kspace(self, brightness: np.ndarray, bend: np.ndarray) -> np.ndarray:
    """Low frequencies of an image whose quarters have the values given."""
    n = min(16, self.image_size) & ~1
    quarters = np.kron(np.arange(4).reshape(2, 2), np.ones((n // 2, n // 2), int))
    image = 1e-4 * np.exp(0.5 * brightness + 0.6j * bend)[quarters]
    low = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image)))
    kspace = np.zeros(self._kspace_shape, np.complex64)
    low *= np.sqrt(kspace.size) / n**2  # Real magnitudes are about 1e-4, too.
    corner = [(length - n) // 2 for length in kspace.shape]
    kspace[corner[0] : corner[0] + n, corner[1] : corner[1] + n] = low
    return kspace


def _check_volumes(table: Path, slices: Sequence[Slice]) -> None:
  """Slices of one knee look alike, so they must be in one split."""
  first: dict[str, str] = {}
  for row in slices:
    if row.split and first.setdefault(row.volume, row.split) != row.split:
      raise DataError(
        f'{table}: volume {row.volume} has slices in {first[row.volume]} and in '
        f'{row.split}. Give all of them the same data_split.'
      )


class _Images:
  """Slices of a split, transformed when asked for; the last few are kept."""

  def __init__(self, paths: Sequence[Path], size: int):
    self._paths, self.size = paths, size
    # Each view asks for the same slices in turn, from as many threads as read.
    self._image = functools.lru_cache(_KEPT)(lambda row: read_image(paths[row], size))

  def __len__(self) -> int:
    return len(self._paths)

  def __getitem__(self, rows: Any) -> np.ndarray:
    chosen = np.arange(len(self))[rows]
    images = [self._image(int(row)) for row in chosen]
    return np.array(images, np.complex64).reshape(-1, self.size, self.size)


class _View:
  """Real images, read like a memory map: `f32[N, H, W, 1]`."""

  def __init__(self, images: _Images, view: Any):
    self._images, self._view = images, view
    self.shape = (len(images), images.size, images.size, 1)
    self.dtype = np.dtype(np.float32)

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, rows: Any) -> np.ndarray:
    return self._view(self._images[rows])[..., None]

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    del copy  # What is read is new in any case.
    return self[:].astype(dtype or self.dtype, copy=False)
