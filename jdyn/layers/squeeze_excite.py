"""Squeeze-and-excitation (Hu et al., 2018), and the sum of two of them (ESANet)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.layers.activation import activation
from jdyn.layers.conv import Conv


class SqueezeExcite(nn.Module):
  """Scales every channel by a gate in [0, 1] that has seen the whole image.

  Attributes:
    reduction: how many times narrower the hidden layer is than the image; it has
      at least one channel.
    activation: of the hidden layer.
  """

  reduction: int = 16
  activation: str = 'relu'

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Scales `[B, H, W, C]`."""
    channels = x.shape[-1]
    mean = jnp.mean(x, axis=(1, 2), keepdims=True)
    hidden = Conv(max(channels // self.reduction, 1), (1, 1), name='squeeze')(mean)
    hidden = activation(self.activation)(hidden)
    return x * nn.sigmoid(Conv(channels, (1, 1), name='excite')(hidden))


class SqueezeExciteAdd(nn.Module):
  """The sum of two images after squeeze-and-excitation of each.

  Attributes:
    reduction: as `SqueezeExcite`.
    activation: as `SqueezeExcite`.
  """

  reduction: int = 16
  activation: str = 'relu'

  @nn.compact
  def __call__(self, main: jax.Array, side: jax.Array) -> jax.Array:
    """Fuses two images `[B, H, W, C]`."""

    def scaled(x, name):
      return SqueezeExcite(self.reduction, self.activation, name=name)(x)

    return scaled(main, 'main') + scaled(side, 'side')
