"""DynMM on CMU-MOSEI as a whole: gate, both experts, objective and cost."""

import jax.numpy as jnp
import pytest

from jdyn.cost import expected_macs
from jdyn.encoders.mlp import MLP
from jdyn.fusions.average import Average
from jdyn.fusions.concat import Concat
from jdyn.gates.learned import LearnedGate
from jdyn.losses.gating import budget
from jdyn.models.feature_fusion import FeatureFusion
from jdyn.models.gated_mixture import GatedMixture
from jdyn.models.unimodal import Unimodal
from jdyn.typing import Outputs
from tests.reference import convert
from tests.reference.losses import absolute_error

pytestmark = pytest.mark.usefixtures('compile_fast')

PATHS = ('text', 'all')
MODALITIES = ('vision', 'audio', 'text')  # The original's order.

# Million operations per path, typed into the original whatever the sizes are. What
# they count is tested in tests/test_cost.py.
ORIGINAL_COSTS = (135.13226, 320.03205)


def _experts(weights):
  """Both experts and their parameters."""
  text_encoder, text_params = convert.transformer(weights, 'text_encoder.')
  text_head, text_head_params = convert.mlp(weights, 'text_head.')
  encoders, encoder_params = {}, {}
  for i, name in enumerate(MODALITIES):
    encoders[name], variables = convert.transformer(weights, f'branch2.encoders.{i}.')
    encoder_params[f'encoders_{name}'] = variables['params']
  widths = {name: encoders[name].features for name in MODALITIES}
  head, head_params = convert.mlp(
    convert.sorted_inputs(weights, 'branch2.head.fc', widths), 'branch2.head.'
  )
  experts = {
    'text': Unimodal('text', text_encoder, text_head),
    'all': FeatureFusion(encoders, Concat(), head),
  }
  return experts, {
    'experts_text': {
      'encoder': text_params['params'],
      'head': text_head_params['params'],
    },
    'experts_all': {**encoder_params, 'head': head_params['params']},
  }


def _gate(weights, inputs):
  """The gate and its parameters, with features in sorted order of modalities."""
  widths = {name: inputs[name].shape[-1] for name in MODALITIES}
  encoder, variables = convert.transformer(
    convert.sorted_inputs(weights, 'gate.0.conv', widths), 'gate.0.'
  )
  last = convert.dense(weights, 'gate.1')
  gate = LearnedGate(encoder, MLP(len(PATHS)))
  return gate, {'encoder': variables['params'], 'head': {'dense_0': last}}


@pytest.mark.parametrize('mode', ['soft', 'hard'])
def test_whole_model(load, mode):
  reference = load('dynmm_mosei_full')
  sizes = reference.meta['constructor']

  def run(weights, inputs):
    modalities = {
      name: {
        'steps': inputs[name],
        'length': jnp.full(inputs[name].shape[:1], inputs[name].shape[1], jnp.int32),
      }
      for name in MODALITIES
    }
    experts, params = _experts(weights)
    gate, gate_params = _gate(weights, inputs)
    model = GatedMixture(experts, PATHS, gate, gate_inputs=MODALITIES)
    hparams = {
      'gate_temperature': float(sizes['temp']),
      'gate_hard': jnp.asarray(mode == 'hard'),
    }
    outputs = model.apply(
      {'params': {'gate': gate_params, **params}},
      modalities,
      train=False,
      hparams=hparams,
    )
    resource = _resource(outputs.weights)
    chosen = jnp.stack([outputs.weights[path] for path in PATHS], axis=-1)
    uniform = Average().apply({}, outputs.unimodal, train=False)
    task = absolute_error(outputs.logits, inputs['label'])
    return task + sizes['reg'] * resource, {
      f'{mode}/weights': chosen,
      f'{mode}/pred': outputs.logits,
      f'{mode}/resource': resource,
      f'{mode}/cal_flop': expected_macs(chosen, ORIGINAL_COSTS).mean(),
      'branch1': outputs.unimodal['text'],
      'branch2': outputs.unimodal['all'],
      'uniform/pred': uniform.value,
      'uniform/resource': _resource(uniform.weights),
    }

  reference.check_loss(mode, run)
  other = 'soft' if mode == 'hard' else 'hard'
  reason = 'compared in the other case of this test'
  reference.finish({f'*/{other}': reason, f'*/{other}/*': reason})


def _resource(weights):
  """The budget term in the original's unit: the share of the second path."""
  outputs = Outputs(logits=weights[PATHS[0]], weights=weights)
  batch = {'mask': jnp.ones_like(weights[PATHS[0]])}
  mean, _ = budget(PATHS, (0.0, 1.0)).apply(outputs, batch, {}, (), None)
  return mean.compute()
