"""QMF's models of images: RGB-D late fusion, TMC and ETMC; the image classifier."""

import re

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict

from jdyn.encoders.identity import Identity
from jdyn.encoders.mlp import MLP
from jdyn.encoders.pooled_resnet import PooledResNet
from jdyn.encoders.resnet import ResNet, Stage
from jdyn.fusions.concat import Concat
from jdyn.fusions.energy_weighted import EnergyWeighted
from jdyn.fusions.evidential import Evidential
from jdyn.losses import LOSSES
from jdyn.models.decision_fusion import DecisionFusion
from jdyn.models.feature_fusion import FeatureFusion
from jdyn.models.unimodal import Unimodal
from jdyn.tasks import Multiclass
from tests.reference import convert, esanet, given

pytestmark = pytest.mark.usefixtures('compile_fast')

_ANNEALING_EPOCHS = 10  # Of the original's evidential loss.
_VIEWS = ('depth', 'rgb')


def _pooled_resnet(weights, prefix, x, pool=(1, 1)):
  """An encoder, its variables, and the names of its statistics' tensors by place.

  The original's is torchvision's ResNet as a Sequential, which numbers its children.
  """
  children = {
    '0': 'conv1',
    '1': 'bn1',
    **{str(i): f'layer{i - 3}' for i in range(4, 8)},
  }
  pattern = re.compile(re.escape(prefix) + r'model\.(\d)\.')
  originals = {
    pattern.sub(lambda m: f'{children[m[1]]}.', key): key
    for key in weights
    if pattern.match(key)
  }
  named = {name: weights[key] for name, key in originals.items()}
  kind = 'bottleneck' if 'layer1.0.conv3.weight' in named else 'basic'
  stages = [f'layer{i}.' for i in range(1, 5)]
  blocks = tuple(convert.count(named, re.escape(s) + r'(\d+)\.') for s in stages)
  widths = tuple(len(named[f'{stage}0.bn1.weight']) for stage in stages)
  resnet = ResNet(kind, blocks, widths)
  variables, statistics = esanet.bind(resnet, named, '', x, train=False)
  encoder = PooledResNet(block=kind, blocks=blocks, widths=widths, pool=pool)
  variables = {key: {'resnet': tree} for key, tree in variables.items()}
  return encoder, variables, {k: originals[name] for k, name in statistics.items()}


def _head(weights, prefix, copies=1):
  """A head and its parameters; the original's layers are every third of its children.

  Args:
    weights: of the original.
    prefix: of its head.
    copies: how often the head reads the same features; the original repeats them.
  """
  keys = (re.match(re.escape(prefix) + r'(\d+)\.weight', key) for key in weights)
  places = sorted(int(match[1]) for match in keys if match)
  layers = [convert.dense(weights, f'{prefix}{i}') for i in places]
  kernel = layers[0]['kernel']
  layers[0]['kernel'] = kernel.reshape(copies, -1, kernel.shape[1]).sum(0)
  *hidden, features = (len(layer['bias']) for layer in layers)
  params = {f'dense_{i}': layer for i, layer in enumerate(layers)}
  return MLP(features, tuple(hidden)), params


def _encode(weights, images, name, copies):
  """Features of one modality, repeated as the original's."""
  encoder, variables, _ = _pooled_resnet(weights, f'{name}enc.', images)
  return jnp.tile(encoder.apply(variables, images, train=False), (1, copies))


def test_rgbd_late_fusion(load):
  reference = load('qmf_rgbd')
  sizes = reference.meta['constructor']
  task, copies = Multiclass(sizes['n_classes']), sizes['num_image_embeds']
  terms = [LOSSES['supervised'](task), LOSSES['per_expert'](task, {})]

  def run(weights, inputs):
    images = {name: esanet.last(inputs[name]) for name in _VIEWS}
    experts, variables = {}, {'params': {}, 'batch_stats': {}}
    for name, x in images.items():
      encoder, own, _ = _pooled_resnet(weights, f'{name}enc.', x)
      head, params = _head(weights, f'clf_{name}.', copies)
      experts[name], place = Unimodal(name, encoder, head), f'experts_{name}'
      variables['params'][place] = {'encoder': own['params'], 'head': params}
      variables['batch_stats'][place] = {'encoder': own['batch_stats']}
    model = DecisionFusion(experts, EnergyWeighted(detach=False))
    outputs, state = model.apply(
      variables,
      images,
      train=False,
      hparams={},
      capture_intermediates=lambda module, _: isinstance(module, PooledResNet),
    )
    found = {'z': outputs.logits, **outputs.unimodal}
    for name in _VIEWS:
      (features,) = state['intermediates'][f'experts_{name}']['encoder']['__call__']
      found[f'feat_{name}'] = jnp.tile(features, (1, copies))
      found[f'conf_{name}'] = outputs.weights[name][:, None]
    return {'sum_ce': given.mean_loss(terms, outputs, inputs['target'])}, found

  reference.check_losses(run)
  reference.finish()


def test_rgbd_evidence_with_a_pseudo_view(load):
  """Experts on features: TMC's two views, and ETMC's third one of both together."""
  reference = load('qmf_rgbd_etmc')
  sizes = reference.meta['constructor']
  terms = [LOSSES['evidential'](Multiclass(sizes['n_classes']))]
  copies = sizes['num_image_embeds']
  annealing = min(1.0, sizes['epoch'] / _ANNEALING_EPOCHS)

  def run(weights, inputs):
    features = {
      name: _encode(weights, esanet.last(inputs[name]), name, copies) for name in _VIEWS
    }
    widths = {name: features[name].shape[1] for name in ('rgb', 'depth')}
    weights = convert.sorted_inputs(weights, 'clf.0', widths)
    pseudo, joint = _head(weights, 'clf.')
    experts, params = {}, {'experts_pseudo': {'head': joint}}
    for name in _VIEWS:
      head, own = _head(weights, f'clf_{name}.')
      experts[name] = Unimodal(name, Identity(), head)
      params[f'experts_{name}'] = {'head': own}
    encoders = dict.fromkeys(_VIEWS, Identity())
    joint_expert = FeatureFusion(encoders, Concat(), pseudo)

    def fused(experts):
      model = DecisionFusion(experts, Evidential())
      return model.apply({'params': params}, features, train=False, hparams={})

    outputs = {'tmc': fused(experts), 'etmc': fused(experts | {'pseudo': joint_expert})}
    losses = {
      name: given.mean_loss(
        terms, output, inputs['target'], evidential_annealing=annealing
      )
      for name, output in outputs.items()
    }
    views = {**outputs['etmc'].unimodal, 'fused': outputs['etmc'].logits}
    found = {f'alpha_{name}': jnp.exp(value) for name, value in views.items()}
    return losses, found | {'fused_tmc': jnp.exp(outputs['tmc'].logits)}

  reference.check_losses(run)
  reference.finish()


def test_image_classifier(load):
  """Several image embeddings, as the text-image models read them."""
  reference = load('qmf_resnet_bottleneck')
  sizes = reference.meta['constructor']
  pool = (sizes['num_image_embeds'], 1)
  term = LOSSES['supervised'](Multiclass(sizes['n_classes']))

  def run(weights, inputs):
    x = esanet.last(inputs['img'])
    encoder, own, statistics = _pooled_resnet(weights, 'img_encoder.', x, pool)
    dense = convert.dense(weights, 'clf')
    model = Unimodal('img', encoder, MLP(len(dense['bias'])))
    variables = {
      'params': {'encoder': own['params'], 'head': {'dense_0': dense}},
      'batch_stats': {'encoder': own['batch_stats']},
    }
    outputs, found = {}, {}
    for mode in ('train', 'eval'):
      outputs[mode], state = model.apply(
        variables,
        {'img': x},
        train=mode == 'train',
        hparams={},
        mutable=['batch_stats', 'intermediates'],
        capture_intermediates=lambda module, _: isinstance(module, Stage),
      )
      features = outputs[mode].hidden.reshape(len(x), pool[0], -1)
      found |= {f'{mode}/feat': features, f'{mode}/logits': outputs[mode].logits}
      if mode == 'train':
        new = {'batch_stats': state['batch_stats']['encoder']['resnet']}
    stages = state['intermediates']['encoder']['resnet']
    for i in range(4):
      (y,) = stages[f'stages_{i}']['__call__']
      found[f'eval/stage{i + 4}_mean'] = jnp.mean(y, axis=(1, 2))
    named = {f'state/{statistics[k]}': v for k, v in flatten_dict(new).items()}
    found |= {k: v for k, v in named.items() if f'out/{k}' in reference.arrays}
    loss = given.mean_loss([term], outputs['eval'], inputs['target'])
    return {'ce_eval': loss}, found

  reference.check_losses(run)
  reference.finish()


@pytest.mark.parametrize(
  ('options', 'parameters'),
  [({}, 11_176_512), ({'block': 'bottleneck', 'blocks': (3, 8, 36, 3)}, 58_143_808)],
  ids=['resnet18', 'resnet152'],
)
def test_encoders_have_as_many_parameters_as_torchvision_counts(options, parameters):
  encoder, x = PooledResNet(**options), jnp.zeros((1, 32, 32, 3))
  variables = jax.eval_shape(lambda: encoder.init(jax.random.key(0), x, train=False))
  leaves = jax.tree.leaves(variables['params'])
  assert sum(leaf.size for leaf in leaves) == parameters
