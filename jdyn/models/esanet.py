"""ESANet: semantic segmentation of RGB and depth images, or of one of them.

Seichter et al., "Efficient RGB-D semantic segmentation for indoor scene analysis",
ICRA 2021. Two ResNets side by side; what the depth stream knows is added to the RGB
stream behind its stem and behind each of its stages, and the depth stream goes on
without having seen RGB. Then pyramid pooling, and a decoder with skip connections.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import jax
from flax import linen as nn

from jdyn.layers.conv_norm import ConvNorm
from jdyn.layers.pyramid_pooling import PyramidPooling
from jdyn.layers.segmentation_decoder import SegmentationDecoder
from jdyn.layers.squeeze_excite import SqueezeExcite, SqueezeExciteAdd
from jdyn.layers.upsample import Upsampling
from jdyn.models.presence import Flag, all_of, presence
from jdyn.ops.pooling import max_pool
from jdyn.typing import Modalities, Outputs


class ESANet(nn.Module):
  """A segmentation network of one modality, or of a main one and one beside it.

  Called as a whole it is the static network. Its parts (`stem`, `advance`, `fuse`,
  `head`) are for those who decide on the way how long the second stream is of use.

  Attributes:
    encoders: a `ResNet` per modality, one or two.
    num_outputs: number of classes.
    main: of two modalities, the one whose stream takes the other in.
    fusion: `se_add` weighs the channels of both by squeeze-and-excitation and adds
      them (one modality: weighs them alone); `add` just adds (does nothing).
    bins: cells per side of the grids of pyramid pooling; none to leave it out.
    trained_size: as in `PyramidPooling`.
    widths: channels of the decoder's modules, one fewer than the encoder has stages.
    blocks: residual blocks of the decoder's modules.
    upsampling: in the decoder; pyramid pooling takes `nearest` with learned ones.
    skips: whether the decoder sees the maps of the encoder's earlier stages.
    activation: of everything but the encoders.
    remat: of the decoder; the encoders have their own. See `SegmentationDecoder`.
    axis_name: name of the mapped data axis, for BatchNorm.
  """

  encoders: Mapping[str, nn.Module]
  num_outputs: int
  main: str = 'rgb'
  fusion: Literal['se_add', 'add'] = 'se_add'
  bins: tuple[int, ...] = (1, 5)
  trained_size: tuple[int, int] | None = None
  widths: tuple[int, ...] = (512, 256, 128)
  blocks: tuple[int, ...] = (3, 3, 3)
  upsampling: Upsampling = 'learned-3x3-zeropad'
  skips: bool = True
  activation: str = 'relu'
  remat: bool = False
  axis_name: str | None = None

  def setup(self):
    """Builds what stands between and behind the encoders.

    Raises:
      ValueError: there are not one or two encoders, none of two is `main`, or the
        encoder's stages and the decoder's modules do not fit.
    """
    names = sorted(self.encoders)
    if len(names) not in (1, 2) or (len(names) == 2 and self.main not in names):
      raise ValueError(
        f'encoders={names}: give one, or two of which one is main={self.main!r}.'
      )
    if self.fusion not in ('se_add', 'add'):
      raise ValueError(f"fusion={self.fusion!r}; expected 'se_add' or 'add'.")
    if len(self.widths) != self.stages - 1 or len(self.blocks) != self.stages - 1:
      raise ValueError(
        f'widths={self.widths} and blocks={self.blocks} need one entry for each of '
        f"the encoder's {self.stages} stages but the last."
      )
    if self.fusion == 'se_add':
      layer = SqueezeExciteAdd if len(names) == 2 else SqueezeExcite
      self.fusions = [layer(activation=self.activation) for _ in range(self.stages + 1)]
    if self.skips:
      self.skip_layers = [self._skip_layer(i) for i in range(1, self.stages)]
    options = {'activation': self.activation, 'axis_name': self.axis_name}
    if self.bins:
      resize = 'nearest' if self.upsampling.startswith('learned') else self.upsampling
      self.context = PyramidPooling(
        self.widths[0], self.bins, resize, self.trained_size, **options
      )
    self.decoder = SegmentationDecoder(
      self.num_outputs,
      self.widths,
      self.blocks,
      self.upsampling,
      remat=self.remat,
      **options,
    )

  @property
  def stages(self) -> int:
    """How many stages the encoders have."""
    return len(next(iter(self.encoders.values())).blocks)

  @property
  def side_scales(self) -> tuple[int, ...]:
    """How many times smaller than the images the side outputs of training are."""
    return tuple(2**power for power in range(3, self.stages + 2))

  @property
  def _names(self) -> tuple[str, str | None]:
    """The main modality and the one beside it."""
    if len(self.encoders) == 1:
      return next(iter(self.encoders)), None
    (side,) = set(self.encoders) - {self.main}
    return self.main, side

  def _skip_layer(self, stage: int) -> nn.Module | None:
    """Brings a stage's map to the width of the decoder's, where they differ."""
    encoder = self.encoders[self._names[0]]
    width = self.widths[-stage]
    if encoder.stage_features[stage - 1] == width:
      return None
    return ConvNorm(width, activation=self.activation, axis_name=self.axis_name)

  def available(self, inputs: Modalities) -> Flag:
    """Where every modality is there."""
    return all_of(presence(inputs, name) for name in self.encoders)

  def stem(
    self, inputs: Modalities, *, train: bool
  ) -> tuple[jax.Array, jax.Array | None]:
    """Maps `[B, H / 4, W / 4, D]`: the main one, fused, and the one beside it.

    Raises:
      ValueError: the images differ in size, or do not halve as often as the network
        does.
    """
    main, side = self._names
    self._check_size({name: inputs[name].shape[1:3] for name in self.encoders})
    x = self.encoders[main].stem(inputs[main], train=train)
    y = None if side is None else self.encoders[side].stem(inputs[side], train=train)
    return max_pool(self.fuse(0, x, y)), None if y is None else max_pool(y)

  def _check_size(self, sizes: Mapping[str, tuple[int, int]]) -> None:
    unit = 2 ** (self.stages + 1)
    if len({*sizes.values()}) > 1 or any(n % unit for s in sizes.values() for n in s):
      raise ValueError(
        f'ESANet got images of {sizes} pixels; give the same size for all, with both '
        f'sides multiples of {unit}.'
      )

  def advance(
    self, stage: int, main: jax.Array | None, side: jax.Array | None, *, train: bool
  ) -> tuple[jax.Array | None, jax.Array | None]:
    """Runs stage 1, 2, ... of both streams, or of one if the other is None."""
    names = self._names
    if main is not None:
      main = self.encoders[names[0]].stage(stage, main, train=train)
    if side is not None:
      side = self.encoders[names[1]].stage(stage, side, train=train)
    return main, side

  def side_stream(self, number: int, inputs: Modalities, *, train: bool) -> jax.Array:
    """The stem and the first `number` stages of the modality beside the main one."""
    side = self._names[1]
    x = max_pool(self.encoders[side].stem(inputs[side], train=train))
    for stage in range(1, number + 1):
      _, x = self.advance(stage, None, x, train=train)
    return x

  def fuse(self, stage: int, main: jax.Array, side: jax.Array | None) -> jax.Array:
    """The main stream behind a stage (0 for the stem) after it took the other in."""
    maps = (main,) if side is None else (main, side)
    return self.fusions[stage](*maps) if self.fusion == 'se_add' else sum(maps)

  def head(self, maps: Sequence[jax.Array], *, train: bool) -> Outputs:
    """Logits from the main stream's maps behind each stage; see `__call__`."""
    *early, x = maps
    skips = [self._skip(i, y, train=train) for i, y in enumerate(early)]
    if self.bins:
      x = self.context(x, train=train)
    logits, sides = self.decoder(x, skips[::-1], train=train)
    scales = [logits.shape[1] // side.shape[1] for side in sides]
    return Outputs(
      logits=logits,
      aux={f'down_{k}': side for k, side in zip(scales, sides, strict=True)},
    )

  def _skip(self, index: int, x: jax.Array, *, train: bool) -> jax.Array | None:
    if not self.skips:
      return None
    layer = self.skip_layers[index]
    return x if layer is None else layer(x, train=train)

  def __call__(self, inputs: Modalities, *, train: bool, hparams) -> Outputs:
    """Logits `[B, H, W, num_outputs]` of images `[B, H, W, C]`.

    In training `aux` has logits at an 8th, 16th and 32nd of the size, as `down_8`,
    `down_16` and `down_32`.
    """
    del hparams  # Nothing here varies by step.
    main, side = self.stem(inputs, train=train)
    maps = []
    for stage in range(1, self.stages + 1):
      main, side = self.advance(stage, main, side, train=train)
      main = self.fuse(stage, main, side)
      maps.append(main)
    return self.head(maps, train=train)
