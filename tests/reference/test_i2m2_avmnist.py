"""I2M2: the product of experts, on given logits and on AV-MNIST."""

import jax
import jax.numpy as jnp
import pytest

from jdyn.fusions.concat import Concat
from jdyn.fusions.low_rank import LowRankFusion
from jdyn.fusions.product_of_experts import ProductOfExperts
from jdyn.losses import LOSSES
from jdyn.models.decision_fusion import DecisionFusion
from jdyn.models.feature_fusion import FeatureFusion
from jdyn.models.unimodal import Unimodal
from jdyn.tasks import Multiclass
from tests.reference import convert, given, loader

NAMES = ('image', 'audio')  # Their order in the original.


def test_product_and_mixture_of_given_logits(load):
  reference = load('i2m2_poe_logits')
  terms = [LOSSES['supervised'](Multiclass(reference.meta['constructor']['n_classes']))]

  def run(weights, inputs):
    del weights

    def fuse(*names, train, **options):
      logits = {name: inputs[name] for name in names}
      return given.fuse(logits, ProductOfExperts(**options), train=train)

    three, two = ('z0', 'z1', 'zi'), ('z0', 'z1')
    outputs = {
      'i2m2': fuse(*three, train=True),
      'i2m2_valid': fuse(*three, train=False),
      'i2m2_test': fuse(*three, train=False),
      'intra_product': fuse(*two, train=True, evaluate='mixture'),
      'intra_product_valid': fuse(*two, train=False),
      'intra_mixture_test': fuse(*two, train=False, evaluate='mixture'),
    }
    named = {'intra': 'intra_product', 'intra_test': 'intra_mixture_test'}
    losses = {
      name: given.mean_loss(terms, outputs[named.get(name, name)], inputs['target'])
      for name in ('i2m2', 'i2m2_test', 'intra', 'intra_test')
    }
    return losses, {k: jax.nn.log_softmax(o.logits) for k, o in outputs.items()}

  reference.check_losses(run)
  reference.finish()


def _joint_fusion(weights, widths, sizes):
  """The fusion inside the joint expert, its parameters, and the head's weights."""
  if sizes['fusion'] == 'lf':
    return Concat(), {}, convert.sorted_inputs(weights, 'inter.head.fc', widths)
  module = LowRankFusion(weights['inter.fuse.fusion_bias'].shape[1], sizes['rank'])
  params = {
    'rank_weights': weights['inter.fuse.fusion_weights'].T,
    'bias': weights['inter.fuse.fusion_bias'],
  }
  for i, name in enumerate(NAMES):
    factor = weights[f'inter.fuse.factors.{i}']  # [rank, 1 + D, features]
    params[f'factor_{name}'] = factor.transpose(1, 0, 2).reshape(factor.shape[1], -1)
  return module, params, weights


def _experts(weights, sizes):
  """The experts by name, and their variables by collection."""
  experts, params, stats = {}, {}, {}
  encoders, joint, joint_stats, widths = {}, {}, {}, {}
  for i, name in enumerate(NAMES):
    encoder, own = convert.lenet(weights, f'uni{i}.0.')
    head, head_variables = convert.mlp(weights, f'uni{i}.1.')
    experts[name] = Unimodal(name, encoder, head)
    params[f'experts_{name}'] = {
      'encoder': own['params'],
      'head': head_variables['params'],
    }
    stats[f'experts_{name}'] = {'encoder': own['batch_stats']}
    encoders[name], own = convert.lenet(weights, f'inter.encoders.{i}.')
    joint[f'encoders_{name}'] = own['params']
    joint_stats[f'encoders_{name}'] = own['batch_stats']
    widths[name] = encoders[name].channels << encoders[name].blocks
  fusion, fusion_params, weights = _joint_fusion(weights, widths, sizes)
  head, head_variables = convert.mlp(weights, 'inter.head.')
  experts['joint'] = FeatureFusion(encoders, fusion, head)
  joint['head'] = head_variables['params']
  if fusion_params:
    joint['fusion'] = fusion_params
  params['experts_joint'], stats['experts_joint'] = joint, joint_stats
  return experts, {'params': params, 'batch_stats': stats}, widths


def _statistics(stats):
  """The statistics in the original's names."""
  outputs = {}
  for i, name in enumerate(NAMES):
    of_encoder = {
      f'uni{i}.0': stats[f'experts_{name}']['encoder'],
      f'inter.encoders.{i}': stats['experts_joint'][f'encoders_{name}'],
    }
    for prefix, blocks in of_encoder.items():
      for block, value in blocks.items():
        key = f'{prefix}.bns.{block.removeprefix("block_")}'
        outputs |= convert.state(key, value['norm'])
  return outputs


@pytest.mark.parametrize('name', ['i2m2_avmnist_lf', 'i2m2_avmnist_lrtf'])
def test_avmnist(load, name):
  reference = load(name)
  sizes = reference.meta['constructor']

  def run(weights, inputs):
    images = {n: inputs[n].transpose(0, 2, 3, 1) for n in NAMES}
    experts, variables, widths = _experts(weights, sizes)
    supervised = LOSSES['supervised'](Multiclass(experts['joint'].head.features))
    product = DecisionFusion(experts, ProductOfExperts())
    intra = DecisionFusion(
      {n: experts[n].clone() for n in NAMES}, ProductOfExperts(evaluate='mixture')
    )
    options = {'hparams': {}}
    before, inside = product.apply(
      variables, images, train=False, capture_intermediates=True, **options
    )
    mixture = intra.apply(variables, images, train=False, **options)
    trained, state = product.apply(
      variables, images, train=True, mutable=['batch_stats'], **options
    )
    after = product.apply({**variables, **state}, images, train=False, **options)
    joint = inside['intermediates']['experts_joint']
    reps = [joint[f'encoders_{n}']['__call__'][0] for n in NAMES]
    fused = joint['fusion']['__call__'][0].value
    if sizes['fusion'] == 'lf':  # In the original's order of modalities.
      fused = fused[:, jnp.argsort(convert.sorted_columns(widths))]
    found = {
      'eval/z0': before.unimodal[NAMES[0]],
      'eval/z1': before.unimodal[NAMES[1]],
      'eval/zi': before.unimodal['joint'],
      'eval/rep0': reps[0],
      'eval/rep1': reps[1],
      'eval/fused': fused,
      'eval/i2m2': jax.nn.log_softmax(before.logits),
      'eval/intra_mixture': mixture.logits,
      'train/i2m2': jax.nn.log_softmax(trained.logits),
      'valid_after/i2m2': jax.nn.log_softmax(after.logits),
    }
    losses = {
      'eval_i2m2': before,
      'eval_intra_mixture': mixture,
      'train_i2m2': trained,
    }
    return (
      {
        k: given.mean_loss([supervised], o, inputs['target']) for k, o in losses.items()
      },
      found | _statistics(state['batch_stats']),
    )

  reference.check_losses(run)
  reference.finish(loader.NO_COUNTER)
