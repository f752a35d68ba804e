"""MMTM: streams that are networks of their own but for the transfers between them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jdyn.encoders.mlp import MLP
from jdyn.encoders.pooled_resnet import PooledResNet
from jdyn.encoders.resnet import ResNet
from jdyn.models.mmtm import MMTM
from jdyn.models.unimodal import Unimodal
from jdyn.ops.presence import present_key
from tests.contracts.passes import random_variables

pytestmark = pytest.mark.usefixtures('compile_fast')

SIZES = dict(block='basic', blocks=(1, 1), widths=(2, 3))
HEAD = MLP(3, hidden=(4,))
IMAGES = {
  name: jnp.asarray(np.random.default_rng(i).normal(size=(4, 16, 12, i)), jnp.float32)
  for i, name in ((1, 'depth'), (3, 'rgb'))
}


def _model(**options):
  encoders = {name: ResNet(**SIZES) for name in IMAGES}
  return MMTM(**{'encoders': encoders, 'head': HEAD, 'transfer_after': (2,)} | options)


class _Called(nn.Module):
  """A model as what draws its variables calls it."""

  model: nn.Module

  @nn.compact
  def __call__(self, x, *, train):
    return self.model(x, train=train, hparams={})


@functools.cache
def _variables():
  variables = random_variables(_Called(_model()), IMAGES)
  return {name: tree['model'] for name, tree in variables.items()}


def _apply(openness, inputs=IMAGES):
  """Outputs with all gates at `openness`; None for gates as they are drawn."""
  variables = _variables()
  if openness is not None:

    def constant(layer):
      bias = jax.scipy.special.logit(openness)
      return {
        'kernel': jnp.zeros_like(layer['kernel']),
        'bias': jnp.full_like(layer['bias'], bias),
      }

    params = variables['params']
    transfer = {
      name: constant(layer) if name.startswith('excite') else layer
      for name, layer in params['transfers_2'].items()
    }
    variables = {**variables, 'params': {**params, 'transfers_2': transfer}}
  return _compiled()(variables, inputs)


@functools.cache
def _compiled():
  model = _model()
  return jax.jit(lambda v, x: model.apply(v, x, train=False, hparams={}))


def _alone(name):
  """Features and logits of one stream as a model of its own, with the same weights."""
  own = {
    collection: {
      'encoder': {'resnet': tree[f'encoders_{name}']},
      'head': tree.get(f'heads_{name}', {}),
    }
    for collection, tree in _variables().items()
  }
  model = Unimodal(name, PooledResNet(**SIZES), HEAD)
  run = jax.jit(lambda v, x: model.apply(v, x, train=False, hparams={}))
  return run(own, IMAGES)


def test_streams_with_open_gates_are_networks_of_their_own():
  outputs = _apply(1.0)
  alone = {name: _alone(name) for name in IMAGES}
  for name, logits in outputs.unimodal.items():
    np.testing.assert_allclose(logits, alone[name].logits, atol=1e-5)
  votes = [outputs.unimodal[name] for name in IMAGES]
  np.testing.assert_allclose(outputs.logits, np.mean(votes, axis=0), atol=1e-6)
  features = [alone[name].hidden for name in ('depth', 'rgb')]
  np.testing.assert_allclose(outputs.hidden, np.hstack(features), atol=1e-5)


def test_a_half_open_gate_behind_the_last_stage_halves_what_heads_read():
  np.testing.assert_allclose(_apply(0.5).hidden, _apply(1.0).hidden / 2, atol=1e-6)


def test_streams_hear_of_each_other_through_the_gates_alone():
  other = {**IMAGES, 'depth': -IMAGES['depth']}
  for openness, same in ((0.5, True), (None, False)):
    rgb, changed = (_apply(openness, x).unimodal['rgb'] for x in (IMAGES, other))
    assert np.allclose(rgb, changed, atol=1e-6) == same


def test_it_judges_examples_with_all_modalities():
  assert _model().available(IMAGES) is True
  assert _model().available({'rgb': IMAGES['rgb']}) is False
  mask = jnp.array([True, False, True, True])
  flags = _model().available({**IMAGES, present_key('depth'): mask})
  np.testing.assert_array_equal(flags, mask)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'encoders': {'rgb': ResNet(**SIZES)}}, 'give two or more'),
    (
      {'encoders': {'rgb': ResNet(**SIZES), 'depth': ResNet('basic', (1,), (2,))}},
      r"stages {'\w+': \d, '\w+': \d}: give two or more, with equal numbers",
    ),
    ({'transfer_after': (0, 2, 3)}, r'there is no stage \[0, 3\]; .* 1 to 2'),
    ({'ratio': 13}, 'ratio=13 leaves nothing of 6 channels; give at most 12'),
  ],
)
def test_what_does_not_fit_is_refused(options, message):
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(
      lambda: _model(**options).init(jax.random.key(0), IMAGES, train=False, hparams={})
    )
