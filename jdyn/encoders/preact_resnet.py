"""The pre-activation residual network that I2M2 trains on fastMRI (PreActResNet18).

He et al., "Identity mappings in deep residual networks", ECCV 2016, with GroupNorm in
place of BatchNorm. Nothing normalises or rectifies the last stage's output, and its
map is averaged to a fixed grid, whatever the size of the image.
"""

import jax
from flax import linen as nn

from jdyn.layers.dense import Dense
from jdyn.ops.pooling import adaptive_average_pool

_kaiming_fan_out = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class PreActResNet(nn.Module):
  """A 3×3 convolution, stages of pre-activation blocks, and a grid of averages.

  Every stage but the first halves the image. The grid is flattened in the order
  channel, height, width, which is PyTorch's, so that weights behind it carry over.

  Attributes:
    features: width of a final linear layer; 0 for none.
    widths: channels of each stage; the first convolution has those of the first.
    blocks: residual blocks of each stage.
    groups: of every GroupNorm; each width must be a multiple of it.
    pool: side of the grid.
  """

  features: int = 0
  widths: tuple[int, ...] = (64, 128, 256, 512)
  blocks: tuple[int, ...] = (2, 2, 2, 2)
  groups: int = 32
  pool: int = 10

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps images `[B, H, W, C]` to `[B, widths[-1] * pool**2]`, or to `features`.

    Raises:
      ValueError: if widths and blocks differ in number, or groups do not divide.
    """
    del train  # GroupNorm is the same in training, and there is no dropout.
    divided = all(width % self.groups == 0 for width in self.widths)
    if len(self.widths) != len(self.blocks) or not divided:
      raise ValueError(
        f'widths={self.widths} need one entry in blocks={self.blocks} each, and must '
        f'be multiples of groups={self.groups}.'
      )
    x = _conv(self.widths[0], 3, 1, 'stem')(x)
    for stage, (width, count) in enumerate(zip(self.widths, self.blocks, strict=True)):
      for i in range(count):
        stride = 2 if stage and not i else 1
        name = f'stage_{stage}_block_{i}'
        x = PreActBlock(width, stride, self.groups, name=name)(x)
    x = adaptive_average_pool(x, (self.pool, self.pool)).transpose(0, 3, 1, 2)
    x = x.reshape(x.shape[0], -1)
    return Dense(self.features, name='out')(x) if self.features else x


class PreActBlock(nn.Module):
  """Twice GroupNorm, ReLU and a 3×3 convolution, around a shortcut.

  Where the shape changes, the shortcut is a 1×1 convolution of the first
  activation; elsewhere it is the input itself.

  Attributes:
    features: output channels.
    stride: of the first convolution and of the shortcut.
    groups: of GroupNorm.
  """

  features: int
  stride: int
  groups: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, C]` to `[B, ceil(H / stride), ceil(W / stride), features]`."""
    y = nn.relu(self._norm('norm_0')(x))
    if self.stride != 1 or x.shape[-1] != self.features:
      x = _conv(self.features, 1, self.stride, 'shortcut')(y)
    y = _conv(self.features, 3, self.stride, 'conv_0')(y)
    y = nn.relu(self._norm('norm_1')(y))
    return x + _conv(self.features, 3, 1, 'conv_1')(y)

  def _norm(self, name: str) -> nn.GroupNorm:
    return nn.GroupNorm(self.groups, epsilon=1e-5, name=name)


def _conv(features: int, size: int, stride: int, name: str) -> nn.Conv:
  """A bias-free convolution; at stride 2, padding 'SAME' would not be even."""
  return nn.Conv(
    features,
    (size, size),
    strides=stride,
    padding=size // 2,
    use_bias=False,
    kernel_init=_kaiming_fan_out,
    name=name,
  )
