"""MultiBench: `NLgate`, `EarlyFusionTransformer`, `LateFusionTransformer`."""

import pytest

from jdyn.encoders.mlp import MLP
from jdyn.fusions.non_local import NonLocalGate
from jdyn.fusions.scalar_tokens import ScalarTokens
from tests.reference import convert
from tests.reference.losses import square

pytestmark = pytest.mark.usefixtures('compile_fast')


def test_non_local_gate_and_fusion_transformers(load):
  reference = load('mb_nlgate_transformers')
  positions, channels, slots = reference.meta['constructor']['nlgate'][:3]

  def non_local(weights, inputs):
    key = convert.dense(weights, 'nlgate.kli')  # [c, t] there, [t, c] here
    params = {
      'query_q': convert.dense(weights, 'nlgate.qli'),
      'key_k': {
        name: value.reshape(-1, channels, slots).swapaxes(1, 2).reshape(value.shape)
        for name, value in key.items()
      },
      'value_k': convert.dense(weights, 'nlgate.vli'),
    }
    module = NonLocalGate(positions, channels, slots, query='q')
    tokens = {'q': inputs['q'], 'k': inputs['k']}
    return module.apply({'params': params}, tokens, train=False).value

  def early(weights, inputs):
    encoder, variables = convert.transformer(weights, 'early.', heads=3)
    head = convert.dense(weights, 'early.linear')
    features = encoder.apply(variables, inputs['e'], train=False)
    return MLP(head['bias'].shape[0]).apply(
      {'params': {'dense_0': head}}, features, train=False
    )

  def late(weights, inputs):
    encoder, variables = convert.transformer(weights, 'late.', heads=3)
    module = ScalarTokens(
      encoder.features, encoder.blocks, encoder.heads, encoder.feedforward
    )
    params = {'params': {'transformer': variables['params']}}
    return module.apply(params, {'l': inputs['l']}, train=False).value

  def run(weights, inputs):
    outputs = {
      'nlgate': non_local(weights, inputs),
      'early': early(weights, inputs),
      'late': late(weights, inputs),
    }
    return square(*outputs.values()), outputs

  reference.check_loss('sq', run)
  reference.finish()
