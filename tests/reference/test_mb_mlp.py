"""MultiBench: `MLP`, `Linear`, `Maxout`."""

import flax.linen as nn

from jdyn.layers.maxout import Maxout
from tests.reference import convert
from tests.reference.losses import square


def test_mlp_linear_and_maxout(load):
  reference = load('mb_mlp')

  def run(weights, inputs):
    x = inputs['x']
    module, variables = convert.mlp(weights, 'mlp.')
    mlp, state = module.apply(variables, x, train=False, capture_intermediates=True)
    hidden = nn.relu(state['intermediates']['dense_0']['__call__'][0])
    linear, linear_variables = convert.mlp(weights, 'lin.')
    maxout = Maxout(*reference.meta['constructor']['maxout'][1:]).apply(
      {'params': {'dense': convert.dense(weights, 'maxout.lin')}}, x
    )
    return square(mlp, maxout), {
      'mlp': mlp,
      'linear': linear.apply(linear_variables, x, train=False),
      'maxout': maxout,
      'each2': hidden,
      'each3': nn.leaky_relu(mlp, 0.2),
      # With dropout=True the original returns the hidden layer; ours does not.
      'quirk_dropout': hidden,
    }

  reference.check_loss('sq', run)
  reference.finish({'out/each1': 'it is the input'})
