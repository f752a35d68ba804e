"""Streams that scale each other's channels (MMTM; Joze et al., CVPR 2020)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.layers.dense import Dense


class MultimodalTransfer(nn.Module):
  """Squeeze-and-excitation across streams: what all have seen gates each of them.

      s = relu(squeeze(the means of all streams, side by side))
      y_m = sigmoid(excite_m(s)) * x_m

  The streams may differ in size and in channels; each keeps its own.

  Attributes:
    ratio: s is 2 / ratio times as wide as all streams together, rounded down.
  """

  ratio: int = 4

  @nn.compact
  def __call__(self, maps: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Scales maps `[B, ..., C_m]` by modality.

    Raises:
      ValueError: the ratio leaves no channel to the squeezed vector.
    """
    names = sorted(maps)
    means = [jnp.mean(maps[n], axis=range(1, maps[n].ndim - 1)) for n in names]
    joint = jnp.concatenate(means, axis=-1)
    width = 2 * joint.shape[-1] // self.ratio
    if width < 1:
      raise ValueError(
        f'ratio={self.ratio} leaves nothing of {joint.shape[-1]} channels; give at '
        f'most {2 * joint.shape[-1]}.'
      )
    squeezed = nn.relu(Dense(width, name='squeeze')(joint))

    def scaled(name, x):
      gate = nn.sigmoid(Dense(x.shape[-1], name=f'excite_{name}')(squeezed))
      return x * jnp.expand_dims(gate, range(1, x.ndim - 1))

    return {name: scaled(name, maps[name]) for name in names}
