"""The gated recurrent unit, with PyTorch's equations and MultiBench's read-outs.

`n = tanh(W_in x + b_in + r * (W_hn h + b_hn))`: the reset gate acts behind the
recurrent matrix, so its bias cannot be merged with the input's.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.layers.dense import Dense
from jdyn.layers.initializers import fan_in_uniform, symmetric_uniform
from jdyn.layers.sequence import as_sequence, step_mask, zero_padding


class GRU(nn.Module):
  """One forward GRU layer over a sequence, starting from zero.

  Attributes:
    features: width of the state.
    readout: `last` for the state at `length - 1` (MultiBench's `has_padding`),
      `steps` for all states, `flatten` for all states as one vector. States at
      or after `length` read as zero.
    project: width of a linear layer on every state that is read (MultiBench's
      `GRUWithLinear`); 0 for none.
  """

  features: int
  readout: Literal['last', 'steps', 'flatten'] = 'last'
  project: int = 0

  @nn.compact
  def __call__(self, x: Any, *, train: bool) -> jax.Array:
    """Maps a sequence to `[B, D]`, or to `[B, T, D]` for `steps`.

    Args:
      x: `{'steps': [B, T, F], 'length': [B]}`, or `[B, T, F]` of full length.
      train: has no effect; a GRU has no dropout here.
    """
    del train
    steps, length = as_sequence(x)
    init = symmetric_uniform(self.features**-0.5)
    from_input = Dense(3 * self.features, kernel_init=init, name='input')(steps)
    kernel = self.param(
      'recurrent_kernel', fan_in_uniform, (self.features, 3 * self.features)
    )
    bias = self.param('recurrent_bias', nn.initializers.zeros, 3 * self.features)

    def step(state, inputs):
      from_input, exists = inputs
      from_state = state @ kernel + bias[None]
      in_r, in_z, in_n = jnp.split(from_input, 3, axis=-1)
      state_r, state_z, state_n = jnp.split(from_state, 3, axis=-1)
      reset = nn.sigmoid(in_r + state_r)
      update = nn.sigmoid(in_z + state_z)
      new = jnp.tanh(in_n + reset * state_n)
      state = jnp.where(exists[:, None], (1 - update) * new + update * state, state)
      return state, None if self.readout == 'last' else state

    start = jnp.zeros((steps.shape[0], self.features), from_input.dtype)
    by_time = (from_input.swapaxes(0, 1), step_mask(length, steps.shape[1]).T)
    y, states = jax.lax.scan(step, start, by_time)
    if self.readout != 'last':
      y = states.swapaxes(0, 1)
    if self.project:
      y = Dense(self.project, name='out')(y)
    if self.readout != 'last':
      y = zero_padding(y, length)
    return y.reshape(y.shape[0], -1) if self.readout == 'flatten' else y
