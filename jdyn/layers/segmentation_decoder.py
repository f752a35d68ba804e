"""ESANet's decoder: from a coarse map, with skip connections, to logits per pixel.

Seichter et al., "Efficient RGB-D semantic segmentation for indoor scene analysis",
ICRA 2021.
"""

from collections.abc import Sequence

import jax
from flax import linen as nn

from jdyn.layers import remat
from jdyn.layers.conv import Conv
from jdyn.layers.conv_norm import ConvNorm
from jdyn.layers.residual_blocks import NonBottleneck1D
from jdyn.layers.upsample import Upsample, Upsampling


class DecoderModule(nn.Module):
  """A 3×3 convolution, residual blocks, and upsampling by two.

  Attributes:
    features: output channels.
    blocks: number of `NonBottleneck1D` blocks.
    num_outputs: classes of the side output.
    upsampling: of the blocks' result.
    activation: of all layers.
    axis_name: name of the mapped data axis, for BatchNorm.
  """

  features: int
  blocks: int
  num_outputs: int
  upsampling: Upsampling = 'learned-3x3-zeropad'
  activation: str = 'relu'
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self, x: jax.Array, skip: jax.Array | None, *, train: bool
  ) -> tuple[jax.Array, jax.Array | None]:
    """Maps `[B, H, W, C]` to `[B, 2 H, 2 W, features]`, and a side output.

    Args:
      x: the coarse map.
      skip: added to the result, or None.
      train: whether the side output, logits `[B, H, W, num_outputs]`, is wanted; it
        is None otherwise.
    """
    options = {'activation': self.activation, 'axis_name': self.axis_name}
    x = ConvNorm(self.features, 3, name='conv', **options)(x, train=train)
    for i in range(self.blocks):
      x = NonBottleneck1D(self.features, name=f'block_{i}', **options)(x, train=train)
    side = None
    if train or self.is_initializing():
      side = Conv(self.num_outputs, (1, 1), name='side')(x)
    x = Upsample(self.upsampling, name='upsample')(x)
    return x if skip is None else x + skip, side


class SegmentationDecoder(nn.Module):
  """Decoder modules, then logits at a quarter of the size, doubled twice.

  Attributes:
    num_outputs: number of classes.
    widths: channels of each module.
    blocks: residual blocks of each module.
    upsampling: in the modules and of the logits.
    activation: of all layers.
    remat: a gradient recomputes each module, which takes memory for one at a time.
    axis_name: name of the mapped data axis, for BatchNorm.
  """

  num_outputs: int
  widths: tuple[int, ...] = (512, 256, 128)
  blocks: tuple[int, ...] = (3, 3, 3)
  upsampling: Upsampling = 'learned-3x3-zeropad'
  activation: str = 'relu'
  remat: bool = False
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self, x: jax.Array, skips: Sequence[jax.Array | None], *, train: bool
  ) -> tuple[jax.Array, list[jax.Array]]:
    """Maps `[B, H, W, C]` to logits, and to the side outputs from coarse to fine.

    Args:
      x: the coarse map.
      skips: what is added to the result of each module.
      train: whether side outputs are wanted; there are none otherwise.

    Returns:
      Logits `[B, s H, s W, num_outputs]`, with `s` = 4 times 2 per module.
    """
    sides = []
    for i, (width, blocks, skip) in enumerate(
      zip(self.widths, self.blocks, skips, strict=True)
    ):
      module = DecoderModule(
        width,
        blocks,
        self.num_outputs,
        self.upsampling,
        self.activation,
        self.axis_name,
        name=f'module_{i}',
      )
      x, side = remat.call(module, x, skip, train=train, remat=self.remat)
      sides += [side] if train else []
    x = Conv(self.num_outputs, (3, 3), padding=1, name='out')(x)
    for i in range(2):
      x = Upsample(self.upsampling, name=f'upsample_{i}')(x)
    return x, sides
