"""MultiBench: `GRU` and `GRUWithLinear`, with and without padding."""

import jax.numpy as jnp

from tests.reference import convert
from tests.reference.losses import square


def _gru(weights, prefix, x, readout, **kwargs):
  module, variables = convert.gru(weights, prefix, readout=readout)
  return module.apply(variables, x, train=False, **kwargs)


def test_all_states(load):
  reference = load('mb_gru')

  def seq(weights, inputs):
    states = _gru(weights, 'gru.', inputs['x'], 'steps')
    outputs = {
      'seq': states,
      'last': _gru(weights, 'gru.', inputs['x'], 'last'),
      'flat': _gru(weights, 'gru.', inputs['x'], 'flatten'),
    }
    return jnp.sum(states * inputs['cot']), outputs

  def padded(weights, inputs):
    x = {'steps': inputs['x'], 'length': inputs['lengths']}
    state = _gru(weights, 'gru.', x, 'last')
    projected = _gru(weights, 'gru_linear.', x, 'last')
    loss = jnp.sum(state * inputs['cot'][:, 0])
    return loss, {'padded': state, 'lin_padded': projected}

  def lin(weights, inputs):
    states = _gru(weights, 'gru_linear.', inputs['x'], 'steps')
    flat = _gru(weights, 'gru_linear.', inputs['x'], 'flatten')
    return square(states), {'lin_seq': states, 'lin_flat': flat}

  reference.check_loss('seq', seq)
  reference.check_loss('padded', padded)
  reference.check_loss('lin', lin)
  reference.finish()
