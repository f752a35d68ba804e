"""DynMM on MM-IMDB as a whole: gate, both experts, objective and cost."""

import jax.numpy as jnp
import pytest

from jdyn.cost import path_macs, thop_macs
from jdyn.encoders.identity import Identity
from jdyn.fusions.concat import Concat
from jdyn.gates.learned import LearnedGate
from jdyn.losses.gating import budget
from jdyn.models.feature_fusion import FeatureFusion
from jdyn.models.gated_mixture import GatedMixture
from jdyn.models.unimodal import Unimodal
from tests.reference import convert
from tests.reference.losses import binary_cross_entropy

pytestmark = pytest.mark.usefixtures('compile_fast')

PATHS = ('text', 'both')


def _model(weights, inputs):
  """The mixture, and its variables with inputs in sorted order of modalities."""
  raw = {name: inputs[name].shape[1] for name in ('text', 'image')}  # Their order.
  modules, variables = {}, {}
  for name, (convert_one, source, prefix) in {
    'text_encoder': (convert.mlp, weights, 'text_encoder.'),
    'text_head': (convert.mlp, weights, 'text_head.'),
    'both_text': (convert.maxout_mlp, weights, 'branch3.encoders.0.'),
    'both_image': (convert.maxout_mlp, weights, 'branch3.encoders.1.'),
    'gate': (convert.mlp, convert.sorted_inputs(weights, 'gate.fc', raw), 'gate.'),
  }.items():
    modules[name], variables[name] = convert_one(source, prefix)
  widths = {name: modules[f'both_{name}'].hidden[-1] for name in raw}
  modules['both_head'], variables['both_head'] = convert.mlp(
    convert.sorted_inputs(weights, 'branch3.head.fc', widths), 'branch3.head.'
  )
  model = GatedMixture(
    experts={
      'text': Unimodal('text', modules['text_encoder'], modules['text_head']),
      'both': FeatureFusion(
        {name: modules[f'both_{name}'] for name in raw}, Concat(), modules['both_head']
      ),
    },
    paths=PATHS,
    gate=LearnedGate(Identity(), modules['gate']),
    gate_inputs=('text', 'image'),
  )
  params = {name: value['params'] for name, value in variables.items()}
  return model, {
    'params': {
      'gate': {'head': params['gate']},
      'experts_text': {'encoder': params['text_encoder'], 'head': params['text_head']},
      'experts_both': {
        'encoders_text': params['both_text'],
        'encoders_image': params['both_image'],
        'head': params['both_head'],
      },
    },
    'batch_stats': {
      'experts_both': {
        f'encoders_{name}': variables[f'both_{name}']['batch_stats'] for name in raw
      }
    },
  }


def _path_costs(model, variables, inputs, hparams):
  """Our count of what the original typed in, in its unit of a million."""

  def gate(variables, inputs):
    return model.apply(
      variables, inputs, train=False, hparams=hparams, method=model.route
    )

  def expert(path):
    return lambda variables, inputs: model.apply(
      variables, path, inputs, train=False, hparams=hparams, method=model.expert
    )

  paths = {path: expert(path) for path in PATHS}
  found = path_macs(gate, paths, variables, inputs, count=thop_macs)
  return {path: found[path] / 1e6 for path in PATHS}


@pytest.mark.parametrize('mode', ['soft', 'hard'])
def test_whole_model(load, mode):
  reference = load('dynmm_imdb_full')
  regularisation = reference.meta['constructor']['reg']

  def run(weights, inputs):
    model, variables = _model(weights, inputs)
    modalities = {name: inputs[name] for name in ('text', 'image')}
    hparams = {'gate_temperature': 1.0, 'gate_hard': jnp.asarray(mode == 'hard')}
    outputs = model.apply(variables, modalities, train=False, hparams=hparams)
    batch = {'mask': jnp.ones(len(inputs['labels']))}
    term = budget(PATHS, (0.0, 1.0))  # The original's unit.
    resource, _ = term.apply(outputs, batch, hparams, (), None)
    costs = _path_costs(model, variables, modalities, hparams)
    task = binary_cross_entropy(outputs.logits, inputs['labels'])
    return task + regularisation * resource.compute(), {
      f'{mode}/weights': jnp.stack([outputs.weights[path] for path in PATHS], axis=-1),
      f'{mode}/logits': outputs.logits,
      f'{mode}/resource': resource.compute(),
      f'{mode}/cal_flop': sum(
        costs[path] * outputs.weights[path].mean() for path in PATHS
      ),
      'branch1': outputs.unimodal['text'],
      'branch2': outputs.unimodal['both'],
    }

  reference.check_loss(mode, run)
  other = 'soft' if mode == 'hard' else 'hard'
  reason = 'compared in the other case of this test'
  reference.finish({f'*/{other}': reason, f'*/{other}/*': reason})
