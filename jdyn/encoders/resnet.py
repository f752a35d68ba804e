"""ResNet (He et al., CVPR 2016), whole or stage by stage.

With blocks (3, 4, 6, 3) it is ResNet-34 for `basic` (or, as ESANet's default,
`non_bottleneck_1d`) blocks and ResNet-50 for `bottleneck` ones; with (2, 2, 2, 2)
ResNet-18. An RGB-D network runs two of them side by side and fuses between stages.
"""

from typing import Literal

import jax
from flax import linen as nn

from jdyn.layers import remat
from jdyn.layers.conv_norm import ConvNorm
from jdyn.layers.residual_blocks import BLOCKS
from jdyn.ops.pooling import max_pool

_kaiming_fan_out = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class ResNet(nn.Module):
  """A 7×7 stem, max-pooling, and stages of residual blocks; no classifier.

  Attributes:
    block: kind of the residual blocks.
    blocks: their number in each stage; every stage but the first halves the image.
    widths: channels of each stage; of `bottleneck` blocks, the inner ones, a quarter
      of those between blocks. The stem has those of the first stage.
    activation: everywhere.
    remat: a gradient recomputes each stage, which takes memory for one at a time.
    axis_name: name of the mapped data axis, for BatchNorm.
  """

  block: Literal['basic', 'bottleneck', 'non_bottleneck_1d'] = 'non_bottleneck_1d'
  blocks: tuple[int, ...] = (3, 4, 6, 3)
  widths: tuple[int, ...] = (64, 128, 256, 512)
  activation: str = 'relu'
  remat: bool = False
  axis_name: str | None = None

  def setup(self):
    """Builds the layers.

    Raises:
      ValueError: the block is unknown, or blocks and widths differ in number.
    """
    if self.block not in BLOCKS:
      raise ValueError(f'block={self.block!r}; expected one of {sorted(BLOCKS)}.')
    if len(self.blocks) != len(self.widths):
      raise ValueError(f'blocks={self.blocks} need one entry in widths={self.widths}.')
    self.first = ConvNorm(
      self.widths[0], 7, 2, self.activation, _kaiming_fan_out, self.axis_name
    )
    self.stages = [
      Stage(
        self.block, features, blocks, 2 if i else 1, self.activation, self.axis_name
      )
      for i, (blocks, features) in enumerate(
        zip(self.blocks, self.stage_features, strict=True)
      )
    ]

  @property
  def stage_features(self) -> tuple[int, ...]:
    """Channels behind each stage."""
    expansion = 4 if self.block == 'bottleneck' else 1
    return tuple(expansion * width for width in self.widths)

  def stem(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps images `[B, H, W, C]` to `[B, H / 2, W / 2, widths[0]]`.

    `jdyn.ops.pooling.max_pool` stands between this and the first stage.
    """
    return self.first(x, train=train)

  def stage(self, number: int, x: jax.Array, *, train: bool) -> jax.Array:
    """Runs one stage, the first of which has number 1."""
    return remat.call(self.stages[number - 1], x, train=train, remat=self.remat)

  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps images `[B, H, W, C]` to the map of the last stage `[B, h, w, D]`."""
    x = max_pool(self.stem(x, train=train))
    for number in range(1, len(self.blocks) + 1):
      x = self.stage(number, x, train=train)
    return x


class Stage(nn.Module):
  """Residual blocks one after another, of which the first may halve the image.

  Attributes:
    block: as in `ResNet`.
    features: output channels.
    blocks: their number.
    stride: of the first block.
    activation: everywhere.
    axis_name: name of the mapped data axis, for BatchNorm.
  """

  block: str
  features: int
  blocks: int
  stride: int
  activation: str
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps `[B, H, W, C]` to `[B, ceil(H / stride), ceil(W / stride), features]`."""
    for i in range(self.blocks):
      x = BLOCKS[self.block](
        self.features,
        1 if i else self.stride,
        self.activation,
        _kaiming_fan_out,
        self.axis_name,
        name=f'block_{i}',
      )(x, train=train)
    return x
