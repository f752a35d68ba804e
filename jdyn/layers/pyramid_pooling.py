"""Pyramid pooling: what is where, at several scales (PSPNet: Zhao et al., 2017)."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.layers.conv_norm import ConvNorm
from jdyn.ops import resize
from jdyn.ops.pooling import adaptive_average_pool


class PyramidPooling(nn.Module):
  """Averages over grids of several sizes, beside the image, mixed by a 1×1 convolution.

  ESANet calls it `ppm`, and with `trained_size` `appm`.

  Attributes:
    features: output channels.
    bins: cells per side of each grid.
    resize: how a grid gets back to the size of the image.
    trained_size: height and width of the map in training. A map of twice that size
      gets twice as many cells, so that one sees as much as it did in training. None
      for grids of fixed size.
    activation: of every convolution.
    axis_name: name of the mapped data axis, for BatchNorm.
  """

  features: int
  bins: tuple[int, ...] = (1, 5)
  resize: Literal['nearest', 'bilinear'] = 'nearest'
  trained_size: tuple[int, int] | None = None
  activation: str = 'relu'
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps `[B, H, W, C]` to `[B, H, W, features]`."""

    def mix(x, features, name):
      layer = ConvNorm(
        features, activation=self.activation, axis_name=self.axis_name, name=name
      )
      return layer(x, train=train)

    size = x.shape[1:3]
    enlarge = resize.nearest if self.resize == 'nearest' else resize.bilinear
    parts = [x]
    for i, cells in enumerate(self.bins):
      pooled = adaptive_average_pool(x, self._grid(size, cells))
      pooled = mix(pooled, x.shape[-1] // len(self.bins), f'bin_{i}')
      parts.append(enlarge(pooled, size))
    return mix(jnp.concatenate(parts, axis=-1), self.features, 'out')

  def _grid(self, size: tuple[int, int], cells: int) -> tuple[int, int]:
    if self.trained_size is None:
      return cells, cells
    return tuple(
      cells * int(now / then + 0.5)
      for now, then in zip(size, self.trained_size, strict=True)
    )
