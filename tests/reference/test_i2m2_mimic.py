"""I2M2 on MIMIC: MLP and GRU experts, their joint expert, and the product."""

import jax
import jax.numpy as jnp
import pytest

from jdyn.fusions.concat import Concat
from jdyn.fusions.product_of_experts import ProductOfExperts
from jdyn.models.decision_fusion import DecisionFusion
from jdyn.models.feature_fusion import FeatureFusion
from jdyn.models.unimodal import Unimodal
from jdyn.tasks import Multiclass
from tests.reference import convert

pytestmark = pytest.mark.usefixtures('compile_fast')

NAMES = {'static': 'uni0', 'series': 'uni1'}  # Their order in the original.


def _experts(weights, sizes):
  """The three experts as models, and their parameters; weights of torch's `MMDL`."""
  experts, params = {}, {}
  encoders, encoder_params = {}, {}
  for i, (name, prefix) in enumerate(NAMES.items()):
    read = convert.mlp if name == 'static' else _flat_gru
    encoder, variables = read(weights, f'{prefix}.0.')
    head, head_variables = convert.mlp(weights, f'{prefix}.1.')
    experts[name] = Unimodal(name, encoder, head)
    params[name] = {
      'encoder': variables['params'],
      'head': head_variables['params'],
    }
    encoders[name], variables = read(weights, f'inter.encoders.{i}.')
    encoder_params[f'encoders_{name}'] = variables['params']
  widths = {'static': encoders['static'].features}
  widths['series'] = sizes['T'] * encoders['series'].features
  weights = convert.sorted_inputs(weights, 'inter.head.fc', widths)
  head, variables = convert.mlp(weights, 'inter.head.')
  experts['joint'] = FeatureFusion(encoders, Concat(), head)
  params['joint'] = {**encoder_params, 'head': variables['params']}
  return experts, params


def _flat_gru(weights, prefix):
  return convert.gru(weights, prefix, readout='flatten')


def _model(names, experts, params, **options):
  model = DecisionFusion({n: experts[n] for n in names}, ProductOfExperts(**options))
  return model, {'params': {f'experts_{name}': params[name] for name in names}}


@pytest.mark.parametrize('name', ['i2m2_mimic_mortality', 'i2m2_mimic_icd'])
def test_mimic(load, name):
  reference = load(name)
  sizes = reference.meta['constructor']
  task = Multiclass(sizes['n_classes'])

  def losses(weights, inputs):
    experts, params = _experts(weights, sizes)
    options = {'hparams': {}}
    label = {'label': inputs['target']}
    model, variables = _model(sorted(experts), experts, params)
    train = model.apply(variables, inputs, train=True, **options)
    test = model.apply(variables, inputs, train=False, **options)
    intra, variables = _model(NAMES, experts, params, evaluate='mixture')
    mixture = intra.apply(variables, inputs, train=False, **options)
    rep0, rep1 = (
      experts['joint']
      .encoders[n]
      .apply({'params': params['joint'][f'encoders_{n}']}, inputs[n], train=False)
      for n in NAMES
    )
    values = {
      'train_i2m2': train.logits,
      'eval_i2m2': test.logits,
      'eval_intra_mixture': mixture.logits,
    }
    return (
      {key: jnp.mean(task.loss(logits, label)) for key, logits in values.items()},
      {
        'eval/z0': test.unimodal['static'],
        'eval/z1': test.unimodal['series'],
        'eval/zi': test.unimodal['joint'],
        'eval/rep0': rep0,
        'eval/rep1': rep1,
        'eval/fused': jnp.concatenate([rep0, rep1], axis=-1),
        'eval/i2m2': jax.nn.log_softmax(test.logits),
        'train/i2m2': jax.nn.log_softmax(train.logits),
        'valid_after/i2m2': jax.nn.log_softmax(test.logits),
        'eval/intra_mixture': mixture.logits,
      },
    )

  reference.check_losses(losses)
  reference.finish()
