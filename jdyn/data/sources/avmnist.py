"""AV-MNIST: an image of a digit, and the spectrogram of a spoken one.

The layout is that of MultiBench. Both modalities are divided by 255 and nothing
else is done to them. The arrays stay on disk, memory-mapped; a batch is decoded
after it was read. Which rows are validation, the last twelfth of train (5,000 of
60,000), is as in MultiBench; there the numbers of rows are hard-coded.
`python -m jdyn.prepare avmnist` builds such a folder from public recordings.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jdyn.data import npy, stand_in
from jdyn.data.dataset import DataError, DataSpec, ModalitySpec, Split
from jdyn.data.files import as_classes, brief, require, row_ids, text_array

_SHAPES = {'image': (784,), 'audio': (112, 112)}  # As stored, one example.
_DECODED = {'image': (28, 28, 1), 'audio': (112, 112, 1)}
_VALID_SHARE = 12


@dataclasses.dataclass(frozen=True)
class AVMNIST:
  """AV-MNIST from `.npy` files, ten classes, any number of examples."""

  layout: ClassVar[str] = """\
<root>/image/{train,test}_data.npy  (N, 784) float or uint8, white is 255
       audio/{train,test}_data.npy  (N, 112, 112) uint8
       {train,test}_labels.npy      (N,) integers from 0 to 9
       manifest.json                optional, {"ids": {"train": [...], "test": [...]}}
built by: python -m jdyn.prepare avmnist --mnist DIR --fsdd DIR --out <root>"""
  bundled: ClassVar[bool] = False

  def spec(self, root: Path) -> DataSpec:
    """Fixed by the format; `root` is not read."""
    del root
    return DataSpec(
      name='avmnist',
      task='multiclass',
      modalities={name: ModalitySpec(shape) for name, shape in _DECODED.items()},
      num_outputs=10,
      class_names=tuple('0123456789'),
    )

  def files(self, root: Path) -> list[Path]:
    """Six arrays and the manifest, if any; raises DataError if an array is absent."""
    names = [
      name
      for part in ('train', 'test')
      for name in (*(f'{m}/{part}_data.npy' for m in _SHAPES), f'{part}_labels.npy')
    ]
    paths = require(root, names, self.layout)
    manifest = root / 'manifest.json'
    return [*paths, manifest] if manifest.is_file() else paths

  def load(self, root: Path) -> Mapping[str, Split]:
    """The splits; raises DataError on files that are truncated or do not fit."""
    self.files(root)
    train, test = _read_part(root, 'train'), _read_part(root, 'test')
    border = len(train) - len(train) // _VALID_SHARE
    return {
      'train': train.select(slice(None, border)),  # A slice keeps the memory map.
      'valid': train.select(slice(border, None)),
      'test': test,
    }

  def write_stand_in(self, root: Path, seed: int) -> None:
    """600 training and 120 test pairs; the audio shows more digits than the image."""
    rng = np.random.default_rng(seed)
    label = stand_in.labels(rng, 720, 10)
    signal = stand_in.one_hot(label, 10)
    for name, clear in (('image', 0.6), ('audio', 0.85)):
      # Features on a grid of 7 x 7, so that convolutions find them.
      grid = stand_in.view(rng, signal, 49, clear=clear, noise=0.5).reshape(-1, 7, 7)
      block = 4 if name == 'image' else 16
      pixels = np.clip(128 + 50 * grid, 0, 255).repeat(block, 1).repeat(block, 2)
      stored = pixels.astype(np.float64 if name == 'image' else np.uint8)
      (root / name).mkdir(parents=True)
      for part, rows in (('train', slice(0, 600)), ('test', slice(600, None))):
        array = stored[rows].reshape(-1, *_SHAPES[name])
        np.save(root / name / f'{part}_data.npy', array)
        np.save(root / f'{part}_labels.npy', label[rows].astype(np.uint8))


def _decode(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
  """Stored values to `f32[..., 28, 28, 1]` and `f32[..., 112, 112, 1]`."""
  decoded = dict(inputs)
  for name in _SHAPES.keys() & inputs.keys():
    stored = inputs[name]
    before = stored.shape[: -len(_SHAPES[name])]
    # Not a division: XLA multiplies by the reciprocal, and NumPy's bits would differ.
    scaled = stored.astype('float32') * (1 / 255)
    decoded[name] = scaled.reshape((*before, *_DECODED[name]))
  return decoded


def _read_part(root: Path, part: str) -> Split:
  """Everything of `train` or `test`; data as memory maps."""
  path = root / f'{part}_labels.npy'
  label = as_classes(_read_array(path, (), 'iu'), 10, str(path))
  inputs = {}
  for name, shape in _SHAPES.items():
    path = root / name / f'{part}_data.npy'
    inputs[name] = _read_array(path, shape, 'fiu')
    if len(inputs[name]) != len(label):
      raise DataError(
        f'{path}: {len(inputs[name])} rows for the {len(label)} of {part}_labels.npy. '
        'Build or copy the folder again.'
      )
  return Split(inputs, label, _read_ids(root, part, len(label)), decode=_decode)


def _read_array(path: Path, shape: tuple[int, ...], kinds: str) -> np.ndarray:
  """Maps the array of one `.npy` file: `[N, *shape]`."""
  try:
    array = npy.read_map(path)
  except (ValueError, OSError) as error:
    raise DataError(
      f'{path}: not a complete .npy array ({error}). Build or copy it again.'
    ) from error
  if array.ndim == 0 or array.shape[1:] != shape or array.dtype.kind not in kinds:
    wanted = ', '.join(str(size) for size in ('N', *shape))
    raise DataError(
      f'{path}: {array.dtype} of shape {array.shape} instead of numbers of shape '
      f'({wanted}). Is this the file that its name says?'
    )
  return array


def _read_ids(root: Path, part: str, size: int) -> np.ndarray:
  """Ids of the manifest, or row numbers where there are none."""
  path = root / 'manifest.json'
  if not path.is_file():
    return row_ids(part, size)
  try:
    manifest = json.loads(path.read_text(encoding='utf-8'))
    if 'ids' not in manifest:
      return row_ids(part, size)
    ids = text_array([f'{part}/{name}' for name in manifest['ids'][part]], f'{path}')
  except (ValueError, KeyError, TypeError, RecursionError) as error:
    raise DataError(
      f'{path}: not JSON with a list of ids for {part} ({brief(error)}). '
      'Build the folder again, or remove the file.'
    ) from error
  if len(ids) != size:
    raise DataError(
      f'{path}: {len(ids)} ids for {size} rows of {part}. Build the folder again.'
    )
  return ids
