"""Models whose inputs lack modalities: for some examples, or for all of them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdyn import build
from jdyn.cost import count_macs
from jdyn.models import MODELS
from jdyn.models.precomputed import Precomputed, hidden_key, logits_key
from jdyn.ops.presence import blank, present_key
from tests import toys
from tests.contracts.passes import random_variables

pytestmark = pytest.mark.usefixtures('compile_fast')

BATCH, NAMES = 6, ('audio', 'image', 'text')
INPUTS = jax.tree.map(jnp.asarray, dict(toys.split(BATCH).inputs))
MASK = np.array([1, 0, 0, 1, 1, 0], bool)
HPARAMS = {'gate_temperature': 1.0, 'gate_hard': True}
FUSIONS = {
  'average': {},
  'energy_weighted': {},
  'evidential': {},
  'learned_confidence': {},
  'product_of_experts': {},
}


def _decision(fusion='average', experts=('image', 'text', 'joint'), **options):
  models = {
    'image': toys.unimodal('image'),
    'text': toys.unimodal('text', toys.mlp(features=5)),
    'joint': _embedded(absent_embedding=False),
  }
  return dict(
    name='decision_fusion',
    experts={name: models[name] for name in experts},
    fusion=dict(name=fusion, **options),
  )


def _embedded(absent_embedding=True):
  return dict(
    name='feature_fusion',
    encoders=dict(audio=dict(name='gru', features=3), text=toys.mlp(features=4)),
    fusion=dict(name='concat'),
    head=toys.mlp(5),
    absent_embedding=absent_embedding,
  )


def _build(entry, spec=toys.SPEC):
  return build.stage(toys.config(entry), spec).model


class _Bound:
  """A model with fixed hparams, as the contract helpers call a module."""

  def __init__(self, model):
    self.model = model

  def init(self, key, x, *, train):
    return self.model.init(key, x, train=train, hparams=HPARAMS)

  def apply(self, variables, inputs, **options):
    return self.model.apply(variables, inputs, train=False, hparams=HPARAMS, **options)


def _bound(entry):
  bound = _Bound(_build(entry))
  return bound, random_variables(bound, INPUTS)


def _without(*names):
  return {name: x for name, x in INPUTS.items() if name not in names}


def _masked(mask, *names):
  """The inputs, of which some rows lack some modalities."""
  masks = {present_key(name): jnp.asarray(mask) for name in names}
  blanked = {name: blank(INPUTS[name], masks[present_key(name)]) for name in names}
  return {**INPUTS, **blanked, **masks}


def _all(*names):
  return lambda has: functools.reduce(np.logical_and, [has[name] for name in names])


def _any(*names):
  return lambda has: functools.reduce(np.logical_or, [has[name] for name in names])


AVAILABLE = {
  'unimodal': (toys.MODELS['unimodal'], _all('image')),
  'early_fusion': (toys.MODELS['early_fusion'], _all('text', 'image')),
  'feature_fusion': (toys.MODELS['feature_fusion'], _all(*NAMES)),
  'feature_fusion-embedded': (_embedded(), _any('audio', 'text')),
  'decision_fusion': (_decision(experts=('image', 'text')), _any('image', 'text')),
  'decision_fusion-of-all': (
    _decision('concat', experts=('image', 'text')),
    _all('image', 'text'),
  ),
  'decision_fusion-joint': (
    _decision(experts=('image', 'joint')),
    lambda has: has['image'] | (has['audio'] & has['text']),
  ),
  'gated_mixture': (toys.MODELS['gated_mixture'], _all(*NAMES)),
  'gated_mixture-gate': (
    toys.gated({'text': toys.unimodal('text'), 'more': toys.unimodal('text')}, 'image'),
    _all('text', 'image'),
  ),
  'gated_mixture-cascade': (
    toys.gated(
      {'text': toys.unimodal('text'), 'image': toys.unimodal('image')}, 'logits/text'
    ),
    _all('text', 'image'),
  ),
  'esanet': (toys.MODELS['esanet'], _all('depth', 'rgb')),
  'gated_stages': (toys.MODELS['gated_stages'], _all('depth', 'rgb')),
  'locally_gated_stages': (
    toys.MODELS['locally_gated_stages'],
    _all('depth', 'rgb'),
  ),
  'mmtm': (toys.MODELS['mmtm'], _all('depth', 'rgb')),
}


def test_every_model_says_when_it_is_available():
  assert {case.split('-')[0] for case in AVAILABLE} == set(MODELS)


@pytest.mark.parametrize('case', AVAILABLE)
def test_a_model_is_available_where_it_has_what_it_needs(case):
  entry, expected = AVAILABLE[case]
  spec, split = toys.data_of(case)
  model, whole = _build(entry, spec), split(BATCH).inputs
  random = np.random.default_rng(0)
  for states in itertools.product(('absent', 'there', 'masked'), repeat=len(whole)):
    inputs, has = {}, {}
    for name, state in zip(whole, states, strict=True):
      if state != 'absent':
        inputs[name] = whole[name]
      has[name] = np.full(BATCH, state != 'absent')
      if state == 'masked':
        has[name] = random.random(BATCH) < 0.5
        inputs[present_key(name)] = has[name]
    got = model.available(inputs)
    assert got is True or got is False or got.dtype == bool
    np.testing.assert_array_equal(np.broadcast_to(got, BATCH), expected(has), states)


@pytest.mark.parametrize('fusion', FUSIONS)
def test_who_lacks_a_modality_does_not_vote(fusion):
  """By mask or by leaving it out, for some examples or for all."""
  model, variables = _bound(_decision(fusion))
  apply = jax.jit(model.apply)
  whole, without = apply(variables, INPUTS), apply(variables, _without('text'))
  assert set(whole.unimodal) == {'image', 'joint', 'text'}
  assert set(without.unimodal) == {'image'}
  assert not any(name.startswith('present/') for name in (*whole.aux, *without.aux))
  nobody = apply(variables, _masked(np.zeros(BATCH, bool), 'text'))
  np.testing.assert_allclose(nobody.logits, without.logits, atol=1e-5)
  some = apply(variables, _masked(MASK, 'text'))
  want = np.where(MASK[:, None], whole.logits, without.logits)
  np.testing.assert_allclose(some.logits, want, atol=1e-5)
  assert np.abs(whole.logits - without.logits).max() > 1e-3
  for name in ('text', 'joint'):
    np.testing.assert_array_equal(some.aux[f'present/{name}'], MASK)
  assert 'present/image' not in some.aux
  for name in some.weights:
    if name != 'image':
      np.testing.assert_array_equal(some.weights[name][~MASK], 0)


def test_who_cannot_vote_is_not_computed():
  model, variables = _bound(_decision())
  alone, own = _bound(_decision(experts=('image',)))
  none = count_macs(alone.apply, own, INPUTS)
  assert count_macs(model.apply, variables, _without('text')) == none
  text = BATCH * (4 * 5 + 5 * 3)
  assert count_macs(model.apply, variables, _without('audio')) == none + text
  whole = count_macs(model.apply, variables, INPUTS)
  assert whole > none + text
  assert count_macs(model.apply, variables, _masked(MASK, 'audio', 'text')) == whole


def test_experts_without_anything_to_judge_are_an_error():
  model, variables = _bound(_decision(experts=('image', 'text')))
  with pytest.raises(ValueError, match=r"'image', 'text'\] can judge .*\['audio'\]"):
    model.apply(variables, _without('image', 'text'))
  model, variables = _bound(_embedded())
  with pytest.raises(ValueError, match=r"'audio', 'text'\] is among .*\['image'\]"):
    model.apply(variables, _without('audio', 'text'))


def test_a_learned_embedding_stands_for_what_is_absent():
  model, variables = _bound(_embedded())
  params = variables['params']
  assert params['absent_audio'].shape == (3,)
  assert params['absent_text'].shape == (4,)
  apply = jax.jit(model.apply)
  whole, without = apply(variables, INPUTS), apply(variables, _without('audio'))
  # The first columns of what is concatenated are those of audio.
  absent = np.broadcast_to(params['absent_audio'], (BATCH, 3))
  np.testing.assert_allclose(without.hidden[:, :3], absent)
  np.testing.assert_allclose(without.hidden[:, 3:], whole.hidden[:, 3:], atol=1e-6)
  some = apply(variables, _masked(MASK, 'audio'))
  want = np.where(MASK[:, None], whole.logits, without.logits)
  np.testing.assert_allclose(some.logits, want, atol=1e-5)
  fewer = count_macs(model.apply, variables, _without('audio'))
  assert fewer == BATCH * (4 * 4 + 7 * 5 + 5 * 3)  # The encoder of text, and the head.


def test_an_embedding_learns_from_those_who_lack_the_modality():
  model, variables = _bound(_embedded())

  @jax.jit
  def gradient(params, inputs):
    def loss(params):
      return jnp.sum(jnp.sin(model.apply({'params': params}, inputs).logits))

    return jax.grad(loss)(params)

  some = gradient(variables['params'], _masked(MASK, 'audio'))
  assert np.any(some['absent_audio'])
  assert not np.any(some['absent_text'])
  for inputs in (INPUTS, _masked(np.ones(BATCH, bool), 'audio')):
    assert not np.any(gradient(variables['params'], inputs)['absent_audio'])
  fresh = _Bound(_build(_embedded())).init(jax.random.key(0), INPUTS, train=False)
  assert not np.any(fresh['params']['absent_audio'])


def test_a_cached_expert_votes_where_its_modalities_were():
  model, variables = _bound(_decision('learned_confidence'))
  whole = jax.jit(model.apply)(variables, _masked(MASK, 'text'))
  needs = {'image': ('image',), 'text': ('text',), 'joint': ('audio', 'text')}
  cached = {present_key('text'): jnp.asarray(MASK)}
  for name in needs:
    own = {'params': variables['params'][f'experts_{name}']}
    expert = model.model.experts[name]
    said = expert.apply(own, _masked(MASK, 'text'), train=False, hparams=HPARAMS)
    cached |= {logits_key(name): said.logits, hidden_key(name): said.hidden}
  lookups = {name: Precomputed(name, needs[name]) for name in needs}
  trained = MODELS['decision_fusion'](lookups, model.model.fusion.clone())
  got = trained.apply(
    {'params': {'fusion': variables['params']['fusion']}},
    cached,
    train=False,
    hparams=HPARAMS,
  )
  np.testing.assert_allclose(got.logits, whole.logits, atol=1e-5)
  np.testing.assert_array_equal(got.aux['present/joint'], MASK)
  assert Precomputed('joint', needs['joint']).available({}) is True
