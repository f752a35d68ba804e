"""The head of CM-BERT with DEQ fusion, from BERT's last layer on."""

import jax
import jax.numpy as jnp
import pytest

from jdyn.fusions.equilibrium_released import ReleasedEquilibrium
from jdyn.fusions.masked_attention import MaskedAttention
from tests.reference import convert, deq

NAMES = ('audio', 'text')


def _variables(weights):
  found = deq.channel_variables(weights, NAMES)
  found['params']['injection'] = {
    'bias': weights['bias'],
    **{f'weight_{name}': weights[f'{name}_weight_1'] for name in NAMES},
  }
  params = {
    'project_text': convert.dense(weights, 'proj_t'),
    'project_audio': convert.dense(weights, 'proj_a'),
    'fusion': found['params'],
    'out': convert.dense(weights, 'dense'),
    'norm': convert.norm(weights, 'LayerNorm1'),
  }
  return {'params': params, 'batch_stats': {'fusion': found['batch_stats']}}


@pytest.mark.usefixtures('compile_fast')
@pytest.mark.parametrize('double', [True, False], ids=['float64', 'float32'])
def test_original(load, double):
  reference = load('deq_mosi_head', double=double)
  options = dict(cell='batch_norm', groups=1, over_steps=True)
  fusion = ReleasedEquilibrium(**options, **deq.exact(double))
  head = MaskedAttention(
    fusion=fusion, attention_dropout=0.0, dropout=0.0, released=True
  )
  layout = deq.Channels(len(NAMES) + 1)

  def run(weights, inputs):
    length = jnp.sum(inputs['mask'][:, 0, 0] == 0, axis=-1)
    sequences = {
      'text': {'steps': inputs['hidden'], 'length': length},
      'audio': {'steps': inputs['audio'], 'length': length},
    }
    probes = jax.vmap(layout.state)(inputs['probe'])
    with deq.opened(probes) as (features, solutions):
      fused = head.apply(
        _variables(weights), sequences, train=True, rngs={'probe': jax.random.key(0)}
      )
    similar, size = features[0], fused.aux['jacobian'].mean()
    state = solutions[0].iterate[:, -similar['text'][0].size :]
    attention = layout.features(state.reshape(similar['text'].shape))
    loss = jnp.sum(fused.value * inputs['cot'])
    return {'head': loss, 'total': loss + 0.01 * size}, {
      'hidden': fused.value,
      'text_att': similar['text'],
      'fusion_att': jax.nn.relu(attention),
      'jac_loss': size,
    }

  reference.check_losses(run)
  reference.finish()
