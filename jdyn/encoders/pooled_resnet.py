"""ResNet to a vector: the image encoder of QMF (ResNet-18 RGB-D, ResNet-152 text)."""

from typing import Literal

import jax
from flax import linen as nn

from jdyn.encoders.resnet import ResNet
from jdyn.layers.dense import Dense
from jdyn.ops.pooling import adaptive_average_pool


class PooledResNet(nn.Module):
  """A ResNet and the means over a grid of cells; by default over the whole map.

  The grid is flattened in the order height, width, channel.

  Attributes:
    features: width of a final linear layer; 0 for none.
    block: kind of the residual blocks, as in `ResNet`.
    blocks: their number in each stage; the default is ResNet-18.
    widths: channels of each stage, as in `ResNet`.
    pool: cells of the grid, by height and width. QMF's N image embeddings of text-image
      models are `(N, 1)` for 1, 2, 3, 5 and 7. Its RGB-D models average over the whole
      map whatever N is, and repeat the vector N times; ours is there once.
    axis_name: name of the mapped data axis, for BatchNorm.
  """

  features: int = 0
  block: Literal['basic', 'bottleneck', 'non_bottleneck_1d'] = 'basic'
  blocks: tuple[int, ...] = (2, 2, 2, 2)
  widths: tuple[int, ...] = (64, 128, 256, 512)
  pool: tuple[int, int] = (1, 1)
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps images `[B, H, W, C]` to `[B, D]`.

    D is `features`, or the channels of the last stage times the number of cells.
    """
    resnet = ResNet(
      self.block, self.blocks, self.widths, axis_name=self.axis_name, name='resnet'
    )
    x = adaptive_average_pool(resnet(x, train=train), self.pool)
    x = x.reshape(x.shape[0], -1)
    return Dense(self.features, name='out')(x) if self.features else x
