"""SUN RGB-D: what each pixel of an indoor scene shows, by four cameras.

Song et al., 2015; 10,335 images in the layout of ESANet (Seichter et al., 2021).
Depth is taken as it is stored, in eighths of a millimetre, as ESANet takes it. Which
images validate is up to us: the dataset has none, and ESANet uses those of the test.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

import numpy as np

from jdyn.data import image_files, rgbd
from jdyn.data.augment import Augment
from jdyn.data.dataset import DataError, DataSpec, Split
from jdyn.data.files import require
from jdyn.data.holdout import hold_out
from jdyn.data.stand_in_scenes import scenes

CLASSES = (
  *('wall', 'floor', 'cabinet', 'bed', 'chair', 'sofa', 'table', 'door', 'window'),
  *('bookshelf', 'picture', 'counter', 'blinds', 'desk', 'shelves', 'curtain'),
  *('dresser', 'pillow', 'mirror', 'floor mat', 'clothes', 'ceiling', 'books'),
  *('fridge', 'tv', 'paper', 'towel', 'shower curtain', 'box', 'whiteboard'),
  *('person', 'night stand', 'toilet', 'sink', 'lamp', 'bathtub', 'bag'),
)
"""Their names."""

CAMERAS = ('kv1', 'kv2', 'realsense', 'xtion')
"""Kinect 1 and 2, RealSense and Xtion."""

# Of the refined depth; ESANet takes them for the raw one, too.
_DEPTH_MEAN, _DEPTH_STD = 19025.14930492213, 9880.916071806689
_KINDS = ('rgb', 'depth', 'label')
_LONGEST = 1000  # Characters of a path.
_STAND_IN = {'train': 24, 'test': 12}
_STAND_IN_SHAPES = {  # Where inputs are of 480 by 640.
  'kv1': (427, 561),
  'kv2': (530, 730),
  'realsense': (531, 681),
  'xtion': (441, 591),
}


def camera(key: str) -> str:
  """The camera, one of `CAMERAS`, of the example with this id.

  Raises:
    ValueError: the id names none.
  """
  name = key.split('/')[0]
  if name not in CAMERAS:
    raise ValueError(f'{key!r} is of none of the cameras {CAMERAS}.')
  return name


@dataclasses.dataclass(frozen=True)
class SUNRGBD:
  """SUN RGB-D: `rgb` and `depth`, and 37 classes. An id is the folder of a scene.

  Attributes:
    depth: `refined`, holes filled, or `raw`, as measured.
    height: of the inputs of the network, to which images are resized.
    width: of the same.
    valid_fraction: of each camera's training images to hold out for validation.
    split_seed: of the choice of these.
    class_weights: `median_frequency`, `logarithmic` or `none`, see `jdyn.data.balance`.
      ESANet counts the classes in all training images, here only those that are not
      held out count.
    scale: least and greatest factor by which training enlarges images.
    hsv: how training changes colours, see `jdyn.data.augment`.
  """

  layout: ClassVar[str] = """\
<root>/{train,test}_{rgb,depth,label}.txt  paths relative to <root>, as many in each
       <camera>/.../image/<name>.jpg       8-bit colour
                    depth_bfx/<name>.png   16-bit, holes filled
                    depth/<name>.png       the same with holes; for depth='raw'
                    label/label.npy        uint8 (height, width), 0 is void
built by: python -m jdyn.prepare sunrgbd --images SUNRGBD --toolbox SUNRGBDtoolbox
            --out <root>
from: SUNRGBD.zip and SUNRGBDtoolbox.zip of https://rgbd.cs.princeton.edu"""
  bundled: ClassVar[bool] = False

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
    rgbd.check_options(self.depth, self.class_weights)
    self._augment()

  def spec(self, root: Path) -> DataSpec:
    """Class weights are counted in the labels; raises DataError on bad ones."""
    train, _ = self._hold_out(self._examples(root, 'train'))
    weights = self.class_weights
    return rgbd.make_spec('sunrgbd', CLASSES, self._augment(), weights, train)

  def files(self, root: Path) -> list[Path]:
    """The lists, and the images in use; raises DataError if one is absent."""
    lists = [f'{part}_{kind}.txt' for part in ('train', 'test') for kind in _KINDS]
    listed = require(root, lists, self.layout)
    examples = [*self._examples(root, 'train'), *self._examples(root, 'test')]
    images = [str(path) for _, *paths in examples for path in paths]
    return [*listed, *require(Path(), images, self.layout)]

  def load(self, root: Path) -> Mapping[str, Split]:
    """The splits; raises DataError on files that are cut or do not fit each other."""
    self.files(root)
    train, valid = self._hold_out(self._examples(root, 'train'))
    parts = {'train': train, 'valid': valid, 'test': self._examples(root, 'test')}
    return rgbd.make_splits(parts, len(CLASSES), self._normalise(), self._augment())

  def read(self, paths: Mapping[str, Sequence[Path]]) -> Mapping[str, np.ndarray]:
    """Inputs `f32[B, H, W, C]` of images by modality, which no list need have.

    Depth is in eighths of a millimetre. Raises DataError as
    `jdyn.data.rgbd.read_inputs`.
    """
    return rgbd.read_inputs(paths, self._normalise(), self._augment())

  def write_stand_in(self, root: Path, seed: int) -> None:
    """24 training and 12 test images of synthetic scenes, see `stand_in_scenes`."""
    rng = np.random.default_rng(seed)
    cameras = [CAMERAS[i % len(CAMERAS)] for i in range(sum(_STAND_IN.values()))]
    shapes = [self._stand_in_shape(name) for name in cameras]
    drawn = scenes(rng, len(CLASSES), shapes, _DEPTH_MEAN, _DEPTH_STD)
    numbered = enumerate(zip(cameras, drawn, strict=True))
    for part, size in _STAND_IN.items():
      lists: dict[str, list[str]] = {kind: [] for kind in _KINDS}
      for number, (name, scene) in (next(numbered) for _ in range(size)):
        folder = f'{name}/stand_in/scene{number:04d}'
        paths = {
          'rgb': f'{folder}/image/{number:04d}.jpg',
          'depth': f'{folder}/depth_bfx/{number:04d}.png',
          'raw': f'{folder}/depth/{number:04d}.png',
          'label': f'{folder}/label/label.npy',
        }
        for path in paths.values():
          (root / path).parent.mkdir(parents=True)
        image_files.write(root / paths['rgb'], scene.rgb)
        image_files.write(root / paths['depth'], scene.depth)
        image_files.write(root / paths['raw'], scene.depth_raw)
        np.save(root / paths['label'], scene.label)
        for kind in _KINDS:
          lists[kind].append(paths[kind])
      for kind in _KINDS:
        (root / f'{part}_{kind}.txt').write_text('\n'.join(lists[kind]) + '\n')

  def _stand_in_shape(self, name: str) -> tuple[int, int]:
    height, width = _STAND_IN_SHAPES[name]
    return height * self.height // 480, width * self.width // 640

  def _normalise(self) -> rgbd.Normalise:
    return rgbd.Normalise(_DEPTH_MEAN, _DEPTH_STD, self.depth == 'raw')

  def _augment(self) -> Augment:
    return Augment(self.height, self.width, self.scale, self.hsv)

  def _examples(self, root: Path, part: str) -> list[rgbd.Files]:
    """The files of `train` or `test`, in the order of the lists."""
    lists = require(root, [f'{part}_{kind}.txt' for kind in _KINDS], self.layout)
    lines = {
      path: path.read_text(encoding='utf-8', errors='replace').splitlines()
      for path in lists
    }
    if len({len(listed) for listed in lines.values()}) > 1:
      counts = ', '.join(f'{path.name} {len(listed)}' for path, listed in lines.items())
      raise DataError(
        f'{root}: lists of different lengths ({counts}). Prepare the folder again.'
      )
    for path, listed in lines.items():
      _check_lines(path, listed)
    triples = zip(*lines.values(), strict=True)
    return [
      self._example(root, part, i, *map(PurePosixPath, triple))
      for i, triple in enumerate(triples, 1)
    ]

  def _example(
    self,
    root: Path,
    part: str,
    line: int,
    rgb: PurePosixPath,
    depth: PurePosixPath,
    label: PurePosixPath,
  ) -> rgbd.Files:
    folder = label.parent.parent
    # ESANet's lists begin with the folder of the archive.
    key = folder.as_posix().removeprefix('SUNRGBD/')
    if not {rgb.parent.parent, depth.parent.parent} == {folder} or (
      key.split('/')[0] not in CAMERAS
    ):
      raise DataError(
        f'{root / part}_*.txt, line {line}: {rgb}, {depth} and {label} are not of one '
        f'scene of a camera of {CAMERAS}. Prepare the folder again.'
      )
    if self.depth == 'raw':
      depth = folder / 'depth' / depth.name
    return rgbd.Files(key, *(root / path for path in (rgb, depth, label)))

  def _hold_out(
    self, examples: list[rgbd.Files]
  ) -> tuple[list[rgbd.Files], list[rgbd.Files]]:
    cameras = np.array([CAMERAS.index(camera(example.key)) for example in examples])
    kept, held = hold_out(cameras, self.valid_fraction, self.split_seed)
    return [examples[i] for i in kept], [examples[i] for i in held]


def _check_lines(path: Path, lines: list[str]) -> None:
  """That each is a path to a file in a folder of a scene, below the root."""
  for number, line in enumerate(lines, 1):
    parts = PurePosixPath(line).parts
    if (
      not line.isprintable()
      or len(line) > _LONGEST
      or '..' in parts
      or line[:1] == '/'
      or len(parts) < 3
    ):
      raise DataError(
        f'{path}, line {number}: {line!r:.120} is no path of an image below the '
        'folder. Prepare it again.'
      )
