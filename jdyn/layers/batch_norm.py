"""Batch normalisation as PyTorch does it, over the global batch.

Flax's own layer keeps the biased variance; PyTorch normalises with the biased
one and remembers the unbiased one, which matters for small batches and for
reading PyTorch's checkpoints.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax


class BatchNorm(nn.Module):
  """Normalises the last axis by the statistics of all others.

  Collection `batch_stats` holds `mean` and `var`, params hold `scale` and
  `bias`, each `f32[D]`. Statistics are computed in float32 at least.

  Attributes:
    momentum: how much of the running statistics a step keeps (PyTorch's
      momentum is one minus this).
    epsilon: added to the variance.
    axis_name: name of the mapped data axis; the statistics are then those of
      the batch over all devices.
  """

  momentum: float = 0.9
  epsilon: float = 1e-5
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Normalises `x` `[B, ..., D]`; with `train` by its own statistics.

    Raises:
      ValueError: with `train`, if there is only one value per feature.
    """
    shape = x.shape[-1:]
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, shape)
    running_var = self.variable('batch_stats', 'var', jnp.ones, shape)
    scale = self.param('scale', nn.initializers.ones, shape)
    bias = self.param('bias', nn.initializers.zeros, shape)

    if not train:
      mean, var = running_mean.value, running_var.value
    else:
      axis_name = None if self.is_initializing() else self.axis_name
      wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
      mean, var, count = _moments(wide, axis_name)
      if not self.is_initializing():
        if count < 2:
          raise ValueError(
            f'BatchNorm got {count} value per feature; to train, it needs a '
            'batch of at least two examples.'
          )
        keep = self.momentum
        unbiased = var * count / (count - 1)
        running_mean.value = keep * running_mean.value + (1 - keep) * mean
        running_var.value = keep * running_var.value + (1 - keep) * unbiased

    factor = lax.rsqrt(var + self.epsilon) * scale
    to_row = (1,) * (x.ndim - 1) + shape
    y = (x - mean.reshape(to_row)) * factor.reshape(to_row) + bias.reshape(to_row)
    return y.astype(x.dtype)


def _moments(x: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array, int]:
  """Mean and biased variance of the last axis, and the number of values."""
  axes = tuple(range(x.ndim - 1))
  count = x.size // x.shape[-1]
  if axis_name is not None:
    count *= lax.axis_size(axis_name)

  def mean_of(values):
    total = jnp.sum(values, axes, keepdims=True)
    return (lax.psum(total, axis_name) if axis_name else total) / count

  # Two passes: the difference of two large second moments loses digits.
  mean = mean_of(x)
  var = mean_of(jnp.square(x - mean))
  return mean.reshape(-1), var.reshape(-1), count
