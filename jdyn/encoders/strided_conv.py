"""A few strided convolutions and a mean: DynMM's gate on the maps of two stems."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.layers.batch_norm import BatchNorm
from jdyn.layers.conv import Conv
from jdyn.layers.dense import Dense


class StridedConv(nn.Module):
  """Unpadded convolutions with stride 2, BatchNorm and tanh; then the mean.

  Attributes:
    features: width of a final linear layer without bias; 0 for none.
    widths: channels of each convolution.
    size: side of their kernels.
    axis_name: name of the mapped data axis, for BatchNorm.
  """

  features: int = 0
  widths: tuple[int, ...] = (8, 8)
  size: int = 5
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps images `[B, H, W, C]` to `[B, features]`, or to `[B, widths[-1]]`.

    Raises:
      ValueError: the image is too small.
    """
    for i, width in enumerate(self.widths):
      if min(x.shape[1:3]) < self.size:
        raise ValueError(
          f'StridedConv: a map of {x.shape[1:3]} pixels has no window of '
          f'size={self.size}; give fewer widths, a smaller size, or larger images.'
        )
      conv = Conv(width, (self.size, self.size), strides=2, name=f'conv_{i}')
      norm = BatchNorm(axis_name=self.axis_name, name=f'norm_{i}')
      x = jnp.tanh(norm(conv(x), train=train))
    x = jnp.mean(x, axis=(1, 2))
    return Dense(self.features, use_bias=False, name='out')(x) if self.features else x
