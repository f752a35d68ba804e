"""Convolution, BatchNorm and activation in one."""

import jax
from flax import linen as nn

from jdyn.layers.activation import activation
from jdyn.layers.batch_norm import BatchNorm
from jdyn.layers.conv import Conv
from jdyn.layers.initializers import fan_in_uniform


class ConvNorm(nn.Module):
  """A bias-free square convolution, BatchNorm and, if one is named, an activation.

  Attributes:
    features: output channels.
    size: side of the kernel, odd; the image is padded to keep its size.
    stride: of the convolution.
    activation: name of the activation, or None.
    kernel_init: of the convolution.
    axis_name: name of the mapped data axis, for BatchNorm.
  """

  features: int
  size: int = 1
  stride: int = 1
  activation: str | None = 'relu'
  kernel_init: nn.initializers.Initializer = fan_in_uniform
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps `[B, H, W, C]` to `[B, ceil(H / stride), ceil(W / stride), features]`."""
    x = Conv(
      self.features,
      (self.size, self.size),
      strides=self.stride,
      padding=self.size // 2,
      use_bias=False,
      kernel_init=self.kernel_init,
      name='conv',
    )(x)
    x = BatchNorm(axis_name=self.axis_name, name='norm')(x, train=train)
    return x if self.activation is None else activation(self.activation)(x)
