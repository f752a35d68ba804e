"""LeNet: the image and spectrogram encoder of AV-MNIST (MultiBench, MFAS)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.layers.batch_norm import BatchNorm
from jdyn.layers.dense import Dense


class LeNet(nn.Module):
  """A 5×5 and then 3×3 convolutions; each BatchNorm, ReLU and 2×2 max-pooling.

  Channels double from block to block. What is left of the image is flattened
  in the order height, width, channel (PyTorch: channel, height, width); on
  AV-MNIST it is one pixel and the orders agree.

  Attributes:
    channels: channels of the first block.
    blocks: number of 3×3 blocks behind the first.
    features: width of a final linear layer; 0 for none.
    axis_name: name of the mapped data axis, for BatchNorm.
  """

  channels: int = 6
  blocks: int = 3
  features: int = 0
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps images `[B, H, W, C]` to `[B, D]`.

    Raises:
      ValueError: if the image is too small for the number of blocks.
    """
    if min(x.shape[1:3]) >> (self.blocks + 1) == 0:
      raise ValueError(
        f'LeNet halves the image {self.blocks + 1} times; {x.shape[1:3]} '
        f'is too small for blocks={self.blocks}.'
      )
    for i in range(self.blocks + 1):
      block = ConvBlock(
        self.channels << i, 3 if i else 5, self.axis_name, name=f'block_{i}'
      )
      x = block(x, train=train)
    x = x.reshape(x.shape[0], -1)
    return Dense(self.features, name='out')(x) if self.features else x


class ConvBlock(nn.Module):
  """Bias-free convolution, BatchNorm, ReLU and 2×2 max-pooling.

  Attributes:
    channels: output channels.
    size: side of the (odd) convolution kernel; the image is padded to keep size.
    axis_name: name of the mapped data axis, for BatchNorm.
  """

  channels: int
  size: int
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps `[B, H, W, C]` to `[B, H // 2, W // 2, channels]`."""
    conv = nn.Conv(
      self.channels,
      (self.size, self.size),
      use_bias=False,
      kernel_init=nn.initializers.he_uniform(),
      name='conv',
    )
    x = BatchNorm(axis_name=self.axis_name, name='norm')(conv(x), train=train)
    return _max_pool(nn.relu(x))


def _max_pool(x: jax.Array) -> jax.Array:
  """2×2 max-pooling; an odd last row or column is dropped.

  As maxima of pairs. The gradient of `jnp.max` looks for the entries that equal the
  maximum; compiled together with what comes before, those are computed a second time,
  rounded differently, and not found. The backward pass of XLA's window reduction is
  many times slower on CPU.
  """
  b, h, w, c = x.shape
  x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c)
  x = jnp.maximum(x[:, :, 0], x[:, :, 1])
  return jnp.maximum(x[..., 0, :], x[..., 1, :])
