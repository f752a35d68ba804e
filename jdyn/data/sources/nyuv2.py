"""NYU Depth v2: what each pixel of an indoor scene shows, in colour and depth.

Silberman et al., 2012; 1449 images of 480 by 640 pixels, in the layout of ESANet
(Seichter et al., 2021), which DynMM (Xue and Marculescu, 2023) uses too. Both judge
on the test images after each epoch and keep the best; here a share of the training
images is held out for that.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from jdyn.data import image_files, rgbd
from jdyn.data.augment import Augment
from jdyn.data.dataset import DataError, DataSpec, Split
from jdyn.data.files import require
from jdyn.data.holdout import hold_out
from jdyn.data.prepare_nyuv2 import read_groups
from jdyn.data.stand_in_scenes import scenes

CLASSES = {
  40: (
    *('wall', 'floor', 'cabinet', 'bed', 'chair', 'sofa', 'table', 'door', 'window'),
    *('bookshelf', 'picture', 'counter', 'blinds', 'desk', 'shelves', 'curtain'),
    *('dresser', 'pillow', 'mirror', 'floor mat', 'clothes', 'ceiling', 'books'),
    *('refridgerator', 'television', 'paper', 'towel', 'shower curtain', 'box'),
    *('whiteboard', 'person', 'night stand', 'toilet', 'sink', 'lamp', 'bathtub'),
    *('bag', 'otherstructure', 'otherfurniture', 'otherprop'),
  ),
  13: (
    *('bed', 'books', 'ceiling', 'chair', 'floor', 'furniture', 'objects', 'picture'),
    *('sofa', 'table', 'tv', 'wall', 'window'),
  ),
}
"""Names by the number of classes, spelt as in the dataset."""

# In millimetres, of the refined depth; ESANet takes them for the raw one, too.
_DEPTH_MEAN, _DEPTH_STD = 2841.94941272766, 1417.2594281672277
_NUMBER = re.compile(r'[0-9]{4}')
_STAND_IN = {'train': 24, 'test': 12}


@dataclasses.dataclass(frozen=True)
class NYUv2:
  """NYUv2: `rgb` and `depth`, and 40 or 13 classes.

  Attributes:
    num_classes: 40 or 13.
    depth: `refined`, holes filled, or `raw`, as measured.
    height: of the inputs of the network, to which images are resized.
    width: of the same.
    valid_fraction: of the training images to hold out for validation.
    split_seed: of the choice of these.
    class_weights: `median_frequency`, `logarithmic` or `none`, see `jdyn.data.balance`.
      ESANet counts the classes in all training images, here only those that are not
      held out count.
    scale: least and greatest factor by which training enlarges images.
    hsv: how training changes colours, see `jdyn.data.augment`.
  """

  layout: ClassVar[str] = """\
<root>/{train,test}.txt                      one number per line, 0001 to 1449
       {train,test}/rgb/<number>.png         8-bit colour
       {train,test}/depth/<number>.png       16-bit, millimetres, holes filled
       {train,test}/depth_raw/<number>.png   the same with holes; for depth='raw'
       {train,test}/labels_40/<number>.png   8-bit, 0 is void; or labels_13
built by: python -m jdyn.prepare nyuv2 --mat nyu_depth_v2_labeled.mat
            --splits splits.mat --classes classMapping40.mat --out <root>
from: https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html and, for the splits and
      classes, https://github.com/VainF/nyuv2-python-toolkit"""
  bundled: ClassVar[bool] = False

  num_classes: int = 40
  depth: Literal['refined', 'raw'] = 'refined'
  height: int = 480
  width: int = 640
  valid_fraction: float = 0.1
  split_seed: int = 0
  class_weights: Literal['median_frequency', 'logarithmic', 'none'] = 'median_frequency'
  scale: tuple[float, float] = (1.0, 1.4)
  hsv: Literal['fixed', 'paper', 'none'] = 'fixed'

  def __post_init__(self):
    """Raises ValueError for an option that does not exist."""
    if self.num_classes not in CLASSES:
      raise ValueError(
        f'num_classes={self.num_classes}; expected one of {sorted(CLASSES)}.'
      )
    rgbd.check_options(self.depth, self.class_weights)
    self._augment()

  def spec(self, root: Path) -> DataSpec:
    """Class weights are counted in the labels; raises DataError on bad ones."""
    train, _ = self._hold_out(self._examples(root, 'train'))
    names = CLASSES[self.num_classes]
    return rgbd.make_spec('nyuv2', names, self._augment(), self.class_weights, train)

  def files(self, root: Path) -> list[Path]:
    """The lists, and the images in use; raises DataError if one is absent."""
    lists = require(root, ['train.txt', 'test.txt'], self.layout)
    examples = [*self._examples(root, 'train'), *self._examples(root, 'test')]
    images = [str(path) for _, *paths in examples for path in paths]
    return [*lists, *require(Path(), images, self.layout)]

  def load(self, root: Path) -> Mapping[str, Split]:
    """The splits; raises DataError on files that are cut or do not fit each other."""
    self.files(root)
    train, valid = self._hold_out(self._examples(root, 'train'))
    parts = {'train': train, 'valid': valid, 'test': self._examples(root, 'test')}
    return rgbd.make_splits(parts, self.num_classes, self._normalise(), self._augment())

  def read(self, paths: Mapping[str, Sequence[Path]]) -> Mapping[str, np.ndarray]:
    """Inputs `f32[B, H, W, C]` of images by modality, which no list need have.

    Depth is in millimetres. Raises DataError as `jdyn.data.rgbd.read_inputs`.
    """
    return rgbd.read_inputs(paths, self._normalise(), self._augment())

  def write_stand_in(self, root: Path, seed: int) -> None:
    """24 training and 12 test images of synthetic scenes, see `stand_in_scenes`."""
    rng = np.random.default_rng(seed)
    shapes = [(self.height, self.width)] * sum(_STAND_IN.values())
    drawn = enumerate(scenes(rng, 40, shapes, _DEPTH_MEAN, _DEPTH_STD), 1)
    groups = read_groups(None)
    for part, size in _STAND_IN.items():
      names = []
      for number, scene in (next(drawn) for _ in range(size)):
        names.append(f'{number:04d}')
        for folder, image in (
          ('rgb', scene.rgb),
          ('depth', scene.depth),
          ('depth_raw', scene.depth_raw),
          ('labels_40', scene.label),
          ('labels_13', groups[scene.label]),
        ):
          (root / part / folder).mkdir(parents=True, exist_ok=True)
          image_files.write(root / part / folder / f'{names[-1]}.png', image)
      (root / f'{part}.txt').write_text('\n'.join(names) + '\n')

  def _normalise(self) -> rgbd.Normalise:
    return rgbd.Normalise(_DEPTH_MEAN, _DEPTH_STD, self.depth == 'raw')

  def _augment(self) -> Augment:
    return Augment(self.height, self.width, self.scale, self.hsv)

  def _examples(self, root: Path, part: str) -> list[rgbd.Files]:
    """The files of `train` or `test`, in the order of the list."""
    (path,) = require(root, [f'{part}.txt'], self.layout)
    names = path.read_text(encoding='utf-8', errors='replace').split()
    for line, name in enumerate(names, 1):
      if not _NUMBER.fullmatch(name):
        raise DataError(
          f'{path}, line {line}: {name!r:.80} is no number of four digits. Prepare the '
          'folder again.'
        )
    listed = Counter(names)
    if repeated := [name for name, times in listed.items() if times > 1]:
      raise DataError(
        f'{path}: the id {repeated[0]} occurs more than once. Prepare the folder again.'
      )
    found = {file.stem for file in (root / part / 'rgb').glob('*.png')}
    if surplus := sorted(found - listed.keys()):
      raise DataError(
        f'{path}: lists {len(names)} images, but not {surplus[0]} and others '
        f'({len(surplus)}) of {root / part / "rgb"}. Was the list cut? Prepare the '
        'folder again, or remove these images.'
      )
    depth = {'refined': 'depth', 'raw': 'depth_raw'}[self.depth]
    folders = 'rgb', depth, f'labels_{self.num_classes}'
    return [
      rgbd.Files(name, *(root / part / folder / f'{name}.png' for folder in folders))
      for name in names
    ]

  def _hold_out(
    self, examples: list[rgbd.Files]
  ) -> tuple[list[rgbd.Files], list[rgbd.Files]]:
    same = np.zeros(len(examples))
    kept, held = hold_out(same, self.valid_fraction, self.split_seed)
    return [examples[i] for i in kept], [examples[i] for i in held]
