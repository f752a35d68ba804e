"""The residual blocks of ResNet and of ERFNet, as ESANet uses them.

He et al., CVPR 2016 (`BasicBlock`, `Bottleneck`, with the stride in the 3×3
convolution); Romera et al., T-ITS 2018 (`NonBottleneck1D`). All have the same fields,
so that a network takes any of them.
"""

import jax
from flax import linen as nn

from jdyn.layers.activation import activation
from jdyn.layers.batch_norm import BatchNorm
from jdyn.layers.conv import Conv
from jdyn.layers.conv_norm import ConvNorm
from jdyn.layers.initializers import fan_in_uniform


class BasicBlock(nn.Module):
  """Two 3×3 convolutions with BatchNorm around a shortcut.

  Where the shape changes, the shortcut is a 1×1 convolution with BatchNorm.

  Attributes:
    features: output channels.
    stride: of the first convolution and of the shortcut.
    activation: after the first BatchNorm and after the sum.
    kernel_init: of every convolution.
    axis_name: name of the mapped data axis, for BatchNorm.
  """

  features: int
  stride: int = 1
  activation: str = 'relu'
  kernel_init: nn.initializers.Initializer = fan_in_uniform
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps `[B, H, W, C]` to `[B, ceil(H / stride), ceil(W / stride), features]`."""
    sizes, strides = (3, 3), (self.stride, 1)
    widths = (self.features, self.features)
    return _residual(self, x, widths, sizes, strides, train=train)


class Bottleneck(nn.Module):
  """Convolutions of 1×1, 3×3 (with the stride) and 1×1 around a shortcut.

  Attributes:
    features: output channels; the inner ones are a quarter.
    stride: of the 3×3 convolution and of the shortcut.
    activation: after the first two BatchNorms and after the sum.
    kernel_init: of every convolution.
    axis_name: name of the mapped data axis, for BatchNorm.
  """

  features: int
  stride: int = 1
  activation: str = 'relu'
  kernel_init: nn.initializers.Initializer = fan_in_uniform
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps `[B, H, W, C]` to `[B, ceil(H / stride), ceil(W / stride), features]`."""
    sizes, strides = (1, 3, 1), (1, self.stride, 1)
    widths = (self.features // 4, self.features // 4, self.features)
    return _residual(self, x, widths, sizes, strides, train=train)


class NonBottleneck1D(nn.Module):
  """Twice a 3×1 and a 1×3 convolution around a shortcut (ERFNet).

  These convolutions have biases, and their BatchNorms an epsilon of 1e-3; the
  shortcut is that of `BasicBlock`.

  Attributes:
    features: output channels.
    stride: of the first pair of convolutions and of the shortcut.
    activation: after every layer but the last, and after the sum.
    kernel_init: of every convolution.
    axis_name: name of the mapped data axis, for BatchNorm.
  """

  features: int
  stride: int = 1
  activation: str = 'relu'
  kernel_init: nn.initializers.Initializer = fan_in_uniform
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps `[B, H, W, C]` to `[B, ceil(H / stride), ceil(W / stride), features]`."""
    act, y = activation(self.activation), x
    for i in range(2):
      stride = 1 if i else self.stride
      y = act(self._conv(f'conv_3x1_{i}', (3, 1), (stride, 1))(y))
      y = self._conv(f'conv_1x3_{i}', (1, 3), (1, stride))(y)
      norm = BatchNorm(epsilon=1e-3, axis_name=self.axis_name, name=f'norm_{i}')
      y = norm(y, train=train)
      y = y if i else act(y)
    return act(y + _shortcut(self, x, train=train))

  def _conv(self, name: str, size: tuple[int, int], strides: tuple[int, int]):
    return Conv(
      self.features,
      size,
      strides=strides,
      padding=tuple(side // 2 for side in size),
      kernel_init=self.kernel_init,
      name=name,
    )


BLOCKS = {
  'basic': BasicBlock,
  'bottleneck': Bottleneck,
  'non_bottleneck_1d': NonBottleneck1D,
}


def _residual(block, x, widths, sizes, strides, *, train: bool) -> jax.Array:
  """Square convolutions one after another, and the shortcut."""
  y = x
  for i, (width, size, stride) in enumerate(zip(widths, sizes, strides, strict=True)):
    y = ConvNorm(
      width,
      size,
      stride,
      block.activation if i + 1 < len(widths) else None,
      block.kernel_init,
      block.axis_name,
      name=f'layer_{i}',
    )(y, train=train)
  return activation(block.activation)(y + _shortcut(block, x, train=train))


def _shortcut(block, x, *, train: bool) -> jax.Array:
  """The input in the block's output shape."""
  if block.stride == 1 and x.shape[-1] == block.features:
    return x
  return ConvNorm(
    block.features,
    stride=block.stride,
    activation=None,
    kernel_init=block.kernel_init,
    axis_name=block.axis_name,
    name='shortcut',
  )(x, train=train)
