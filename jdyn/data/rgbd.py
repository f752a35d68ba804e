"""What the RGB-D datasets share: from files to splits that models can take.

Colours are normalised as for ImageNet, and depth by the mean and standard deviation
that ESANet gives for a dataset. Inputs are resized to one size where they are of
another; labels keep their own, at which predictions are judged.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jdyn.data import balance
from jdyn.data.augment import Augment, Example
from jdyn.data.dataset import DataError, DataSpec, ModalitySpec, Split
from jdyn.data.image_files import (
  DEPTH,
  LABEL,
  RGB,
  ImageFiles,
  Kind,
  read,
  read_label,
  read_padded_label,
  read_resized,
  shape_of,
)

DEPTHS = ('refined', 'raw')
"""Depth with the holes filled, or as it was measured."""

CLASS_WEIGHTS = ('median_frequency', 'logarithmic', 'none')
"""Ways to weigh classes in training, see `jdyn.data.balance`."""

# Of ImageNet's colours, red first, where white is 1.
_MEAN = np.float32([0.485, 0.456, 0.406])
_STD = np.float32([0.229, 0.224, 0.225])
_THREADS = 8  # For headers, where a disk may be far away.
_LABELS = 16  # Label images that are counted at a time.


class Files(NamedTuple):
  """Where one example lies.

  Attributes:
    key: its id.
    rgb: the colour image, 8 bits.
    depth: the depth image, 16 bits.
    label: the label image, 8 bits.
  """

  key: str
  rgb: Path
  depth: Path
  label: Path


@dataclasses.dataclass(frozen=True)
class Normalise:
  """Stored images to what networks take; a `Split.decode`.

  `rgb` `u8[..., H, W, 3]` to `f32`; `depth` `u16[..., H, W]` to `f32[..., H, W, 1]`.

  Attributes:
    depth_mean: in the unit in which depth is stored.
    depth_std: in the same.
    keep_holes: where nothing was measured, stored as 0, the result is 0, too. ESANet
      does so for raw depth.
  """

  depth_mean: float
  depth_std: float
  keep_holes: bool = False

  def __call__(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """See the class."""
    decoded = dict(inputs)
    # A difference and then a product: compilers would fuse a product and a sum.
    if 'rgb' in inputs:
      stored = inputs['rgb']
      channels = (1,) * (stored.ndim - 1) + (3,)
      mean, scale = ((255 * _MEAN), 1 / (255 * _STD))
      centred = stored.astype('float32') - mean.reshape(channels)
      decoded['rgb'] = centred * scale.reshape(channels)
    if 'depth' in inputs:
      stored = inputs['depth'][..., None]
      scale = np.float32(1 / self.depth_std)
      depth = (stored.astype('float32') - np.float32(self.depth_mean)) * scale
      decoded['depth'] = depth * (stored > 0) if self.keep_holes else depth
    return decoded


@dataclasses.dataclass(frozen=True)
class TrainingDraw:
  """Reads an example and augments it; a `Split.augment`.

  Attributes:
    files: of the examples, by id.
    num_classes: of the labels.
    augment: what is done.
  """

  files: Mapping[str, Files]
  num_classes: int
  augment: Augment

  def __call__(
    self, key: str, rng: np.random.Generator
  ) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Stored inputs and label of one example, at the size of the network."""
    files = self.files[key]
    label = read_label(files.label, self.num_classes)
    example = Example(read(files.rgb, RGB), read(files.depth, DEPTH), label)
    rgb, depth, label = self.augment(example, rng)
    return {'rgb': rgb, 'depth': depth}, label


def check_options(depth: str, class_weights: str) -> None:
  """Raises ValueError for an option that does not exist."""
  if depth not in DEPTHS:
    raise ValueError(f'depth={depth!r}; expected one of {DEPTHS}.')
  if class_weights not in CLASS_WEIGHTS:
    raise ValueError(
      f'class_weights={class_weights!r}; expected one of {CLASS_WEIGHTS}.'
    )


def make_spec(
  name: str,
  class_names: Sequence[str],
  augment: Augment,
  weights: str,
  train: Sequence[Files],
) -> DataSpec:
  """The specification of a dataset.

  Args:
    name: of the dataset.
    class_names: without void.
    augment: has the size of the inputs.
    weights: one of `CLASS_WEIGHTS`.
    train: the examples that are trained on; their labels are read unless weights are
      `none`.

  Raises:
    DataError: a label is damaged, or a class has no weight since it is in none.
  """
  size = augment.height, augment.width
  return DataSpec(
    name=name,
    task='segmentation',
    modalities={'depth': ModalitySpec((*size, 1)), 'rgb': ModalitySpec((*size, 3))},
    num_outputs=len(class_names),
    class_names=tuple(class_names),
    class_weights=_class_weights(weights, train, len(class_names)),
  )


def make_splits(
  parts: Mapping[str, Sequence[Files]],
  num_classes: int,
  normalise: Normalise,
  augment: Augment,
) -> dict[str, Split]:
  """Splits whose images are read when asked for; `train` is augmented.

  Args:
    parts: the examples by split.
    num_classes: of the labels.
    normalise: the inputs of all splits.
    augment: what training draws; all inputs are of its size.

  Raises:
    DataError: a file is missing, cut or of another kind, or the three files of an
      example are not of one size. Pixels are not read yet.
  """
  everything = [files for part in parts.values() for files in part]
  with ThreadPoolExecutor(_THREADS) as pool:
    shapes = list(pool.map(_shape, everything))
  height, width = np.max(shapes, axis=0).tolist()
  if (height, width) == (augment.height, augment.width) and len(set(shapes)) > 1:
    height += 1  # Labels of the size of the inputs must not be padded.
  size = augment.height, augment.width
  splits = {}
  for name, part in parts.items():
    draw = TrainingDraw({files.key: files for files in part}, num_classes, augment)
    splits[name] = Split(
      inputs={
        'rgb': _inputs([files.rgb for files in part], RGB, size),
        'depth': _inputs([files.depth for files in part], DEPTH, size),
      },
      label=_labels([files.label for files in part], num_classes, height, width),
      ids=np.array([files.key for files in part]),
      decode=normalise,
      augment=draw if name == 'train' else None,
    )
  return splits


def read_inputs(
  paths: Mapping[str, Sequence[Path]], normalise: Normalise, augment: Augment
) -> dict[str, np.ndarray]:
  """What networks take, `f32[B, H, W, C]`, of images that belong to no split.

  They are checked, resized and normalised as those of splits are.

  Args:
    paths: of `B` images by modality; images of one scene have the same place.
    normalise: as in `make_splits`.
    augment: as there; it has the size of the inputs.

  Raises:
    DataError: a file is missing, damaged or of another kind, or the images of a scene
      are not of one size.
  """
  kinds = {'rgb': RGB, 'depth': DEPTH}
  for scene in zip(*paths.values(), strict=True):
    _common_shape(
      [(path, kinds[name]) for name, path in zip(paths, scene, strict=True)]
    )
  size = augment.height, augment.width
  return dict(
    normalise({name: _inputs(paths[name], kinds[name], size)[:] for name in paths})
  )


def class_colors(num_classes: int) -> np.ndarray:
  """Red, green and blue of void, which is black, and of the classes: `u8[C + 1, 3]`.

  PASCAL VOC's: the bits of a label, the lowest three first, go in turn to red, green
  and blue, to the highest bit that is free.
  """
  label = np.arange(num_classes + 1)[:, None]
  bits = np.arange(8)
  channels = (label >> (3 * bits + np.arange(3)[:, None, None])) & 1
  return (channels << (7 - bits)).sum(-1).T.astype(np.uint8)


def _shape(files: Files) -> tuple[int, int]:
  return _common_shape([(files.rgb, RGB), (files.depth, DEPTH), (files.label, LABEL)])


def _common_shape(images: Sequence[tuple[Path, Kind]]) -> tuple[int, int]:
  (first, kind), *others = images
  shape = shape_of(first, kind)
  for path, kind in others:
    if (other := shape_of(path, kind)) != shape:
      raise DataError(
        f'{path}: {other[0]} by {other[1]} pixels, but {first} has {shape[0]} by '
        f'{shape[1]}. Images of one scene must be of one size; copy or prepare the '
        'files again.'
      )
  return shape


def _inputs(paths: Sequence[Path], kind: Kind, size: tuple[int, int]) -> ImageFiles:
  load = functools.partial(read_resized, kind=kind, height=size[0], width=size[1])
  return ImageFiles(paths, load, (*size, 3) if kind.color else size, kind.dtype)


def _labels(
  paths: Sequence[Path], num_classes: int, height: int, width: int
) -> ImageFiles:
  load = functools.partial(
    read_padded_label, num_classes=num_classes, height=height, width=width
  )
  return ImageFiles(paths, load, (height, width), LABEL.dtype)


def _class_weights(
  how: str, train: Sequence[Files], num_classes: int
) -> tuple[float, ...]:
  if how == 'none':
    return ()
  weigh = {
    'median_frequency': balance.median_frequency,
    'logarithmic': balance.logarithmic,
  }[how]
  return weigh(_read_labels(train, num_classes), num_classes)


def _read_labels(train: Sequence[Files], num_classes: int) -> Iterator[np.ndarray]:
  """Every label image; a few at a time, since they may be many."""
  load = functools.partial(read_label, num_classes=num_classes)
  with ThreadPoolExecutor(_THREADS) as pool:
    for start in range(0, len(train), _LABELS):
      paths = [files.label for files in train[start : start + _LABELS]]
      yield from pool.map(load, paths)
