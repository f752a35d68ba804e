"""I2M2 on fastMRI: PreActResNet18, and the product of three for each label.

The original ends in a softmax over two classes per label. That is one logit, class 1
minus class 0, so heads are converted to the difference of their two rows; of a stored
pair of logits only the difference is compared.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdyn.data.knee_slices import LABELS
from jdyn.encoders.identity import Identity
from jdyn.encoders.mlp import MLP
from jdyn.encoders.preact_resnet import PreActResNet
from jdyn.fusions.concat import Concat
from jdyn.fusions.product_of_experts import ProductOfExperts
from jdyn.models.decision_fusion import DecisionFusion
from jdyn.models.feature_fusion import FeatureFusion
from jdyn.models.unimodal import Unimodal
from jdyn.tasks import Multilabel
from tests.reference import convert

pytestmark = pytest.mark.usefixtures('compile_fast')

VIEWS = {'magnitude': jnp.abs, 'phase': jnp.angle}


def _kernel(weights, key):
  return {'kernel': weights[f'{key}.weight'].transpose(2, 3, 1, 0)}


def _preact(weights, prefix, stem):
  """`PreActResNet` without its heads."""
  params = {'stem': _kernel(weights, f'{prefix}{stem}')}
  blocks, widths = [], []
  for stage in range(convert.count(weights, re.escape(prefix) + r'layer(\d)\.')):
    layer = f'{prefix}layer{stage + 1}'
    blocks.append(convert.count(weights, re.escape(layer) + r'\.(\d+)\.'))
    for i in range(blocks[-1]):
      key = f'{layer}.{i}'
      block = {
        'norm_0': convert.norm(weights, f'{key}.bn1'),
        'conv_0': _kernel(weights, f'{key}.conv1'),
        'norm_1': convert.norm(weights, f'{key}.bn2'),
        'conv_1': _kernel(weights, f'{key}.conv2'),
      }
      if f'{key}.shortcut.0.weight' in weights:
        block['shortcut'] = _kernel(weights, f'{key}.shortcut.0')
      params[f'stage_{stage}_block_{i}'] = block
    widths.append(weights[f'{layer}.0.conv1.weight'].shape[0])
  cells = weights[f'{prefix}linear_{LABELS[0]}.weight'].shape[1] // widths[-1]
  return PreActResNet(
    widths=tuple(widths), blocks=tuple(blocks), pool=round(cells**0.5)
  ), params


def _head(weights, prefix):
  """Four softmaxes over two classes as four logits."""
  kernels, biases = (
    jnp.stack([_margin(weights[f'{prefix}linear_{n}.{part}'].T) for n in LABELS], -1)
    for part in ('weight', 'bias')
  )
  return MLP(len(LABELS)), {'dense_0': {'kernel': kernels, 'bias': biases}}


def _margin(pair):
  return pair[..., 1] - pair[..., 0]


def _margins(outputs, name):
  """The stored pairs of logits of all labels, as `[B, labels]`."""
  return np.stack([_margin(outputs[f'out/{name}/{n}']) for n in LABELS], -1)


def _views(image, shape):
  """The cropped views `[B, H, W, 1]` of images `[B, H, W]`."""
  top, left = ((n - m) // 2 for n, m in zip(image.shape[1:], shape, strict=True))
  crop = np.s_[:, top : top + shape[0], left : left + shape[1], None]
  return {name: view(image)[crop] for name, view in VIEWS.items()}


def _expert(weights, prefix, names):
  """The model that reads the views `names`, and its parameters."""
  trunk, params = _preact(weights, prefix, 'conv1' if len(names) == 1 else 'conv1_p')
  head, head_params = _head(weights, prefix)
  if len(names) == 1:
    (name,) = names
    return Unimodal(name, trunk, head), {'encoder': params, 'head': head_params}
  # A channel each, and the network as the head of what is joined.
  joint = trunk.clone(features=len(LABELS))
  encoders = {name: Identity(flatten=False) for name in names}
  params = {**params, 'out': head_params['dense_0']}
  return FeatureFusion(encoders, Concat(flatten=False), joint), {'head': params}


def _apply(model, params, inputs):
  return model.apply({'params': params}, inputs, train=True, hparams={}).logits


def _compare(reference, name, got):
  """Margins of all labels, at the sum of the tolerances of the pair."""
  want = _margins(reference.arrays, name)
  stated = reference.meta['tolerance']
  for i, label in enumerate(LABELS):
    key = f'out/{name}/{label}'
    size = np.abs(reference.arrays[key]).sum(-1)
    atol = 2 * stated['atol'][key] + stated['rtol'] * size
    assert (np.abs(got[:, i] - want[:, i]) <= atol).all(), key
    reference.seen.add(key)


def _check(reference, run):
  """Losses and gradients against the file, then logits as margins.

  `run(weights, inputs)` gives losses and logits, each by name.
  """
  logits = jax.jit(lambda *args: run(*args)[1])(reference.weights, reference.inputs)
  for name, got in logits.items():
    _compare(reference, name, np.asarray(got))
  reference.check_losses(lambda *args: (run(*args)[0], {}))
  reference.finish()


def test_preact_resnet(load):
  reference = load('i2m2_fastmri_preact')
  shape = reference.meta['constructor']['image_shape']
  task = Multilabel(len(LABELS))

  def run(weights, inputs):
    image = inputs['image'][:, 0]
    views, small = _views(image, shape), _views(image * 0.001, shape)
    # One set of weights reads all inputs of one channel.
    singles = {
      'mag': views['magnitude'],
      'phase': views['phase'],
      'mag_small': small['magnitude'],
      'rss': inputs['rss'].transpose(0, 2, 3, 1),
    }
    single = _expert(weights, '', ['magnitude'])
    got = _apply(*single, {'magnitude': jnp.concatenate([*singles.values()])})
    logits = dict(zip(singles, jnp.split(got, len(singles)), strict=True))
    logits['magphase'] = _apply(*_expert(weights, '', [*VIEWS]), views)
    batch = {'label': inputs['labels'].astype(np.float32)}
    # The original adds up the labels, the task averages them.
    losses = {
      name: len(LABELS) * jnp.mean(task.loss(logits[name], batch))
      for name in ('mag', 'magphase')
    }
    return losses, logits

  _check(reference, run)


def test_i2m2(load):
  reference = load('i2m2_fastmri_i2m2')
  shape = reference.meta['constructor']['image_shape']
  labels, weights = (reference.inputs[name] for name in ('labels', 'class_weights'))
  # The original divides by the weights of the batch, the task by its size.
  totals = [w[label].sum() for w, label in zip(weights, labels.T, strict=True)]
  scaled = weights * len(labels) / np.array(totals)[:, None]
  task = Multilabel(len(LABELS), tuple(map(tuple, scaled.tolist())))

  def run(weights, inputs):
    made = {
      'joint': _expert(weights, 'model_cat.', [*VIEWS]),
      'magnitude': _expert(weights, 'model_imag.', ['magnitude']),
      'phase': _expert(weights, 'model_real.', ['phase']),
    }
    experts = {name: model for name, (model, _) in made.items()}
    params = {f'experts_{name}': params for name, (_, params) in made.items()}
    outputs = DecisionFusion(experts, ProductOfExperts()).apply(
      {'params': params}, _views(inputs['image'], shape), train=True, hparams={}
    )
    batch = {'label': inputs['labels'].astype(np.float32)}
    loss = len(LABELS) * jnp.mean(task.loss(outputs.logits, batch))
    return {'train': loss}, {
      'i2m2': outputs.logits,
      'cat': outputs.unimodal['joint'],
      'phase': outputs.unimodal['phase'],
      'mag': outputs.unimodal['magnitude'],
    }

  _check(reference, run)
