"""What every model keeps, whatever it is made of."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdyn import build
from jdyn.models import MODELS
from jdyn.models.input_names import input_names, route_names
from tests import toys

pytestmark = pytest.mark.usefixtures('compile_fast')

BATCH = 6
HARD = {'gate_temperature': jnp.float32(0.5), 'gate_hard': jnp.asarray(True)}
SOFT = {**HARD, 'gate_hard': jnp.asarray(False)}
INPUTS = dict(toys.split(BATCH).inputs)  # Of most cases.


@functools.cache
def _inputs(case):
  _, split = toys.data_of(case)
  return dict(split(BATCH).inputs)


@functools.cache
def _make(case):
  spec, _ = toys.data_of(case)
  model = build.stage(toys.config(toys.MODELS[case]), spec).model
  init = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False, hparams=SOFT))
  return model, init(_inputs(case))


@functools.cache
def _compiled(case):
  model, _ = _make(case)
  return jax.jit(lambda v, x, hparams: model.apply(v, x, train=False, hparams=hparams))


def _apply(case, inputs=None, hparams=SOFT):
  inputs = _inputs(case) if inputs is None else inputs
  return _compiled(case)(_make(case)[1], inputs, hparams)


def _expert_logits(case, name):
  """The logits of one expert as a model of its own, not compiled."""
  model, variables = _make(case)
  own = {
    collection: tree[f'experts_{name}']
    for collection, tree in variables.items()
    if f'experts_{name}' in tree
  }
  return model.experts[name].apply(own, INPUTS, train=False, hparams=SOFT).logits


def test_every_model_has_a_case():
  assert {case.split('-')[0] for case in toys.MODELS} == set(MODELS)


@pytest.mark.parametrize('case', toys.MODELS)
def test_logits_and_that_jit_equals_eager_in_any_order_of_inputs(case):
  model, variables = _make(case)
  outputs = _apply(case)
  spec, _ = toys.data_of(case)
  pixels = (16, 16) if spec.task == 'segmentation' else ()
  assert outputs.logits.shape == (BATCH, *pixels, toys.CLASSES)
  for leaf in jax.tree.leaves(outputs):
    assert leaf.shape[0] == BATCH
    assert np.isfinite(leaf).all()
  reverse = dict(reversed(_inputs(case).items()))
  eager = model.apply(variables, reverse, train=False, hparams=SOFT)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), outputs, eager)


@pytest.mark.parametrize('case', toys.MODELS)
def test_a_model_reads_what_it_says(case):
  names, want = input_names(_make(case)[0]), _apply(case).logits
  inputs = _inputs(case)
  reads = {name: inputs[name] for name in names}
  np.testing.assert_array_equal(_apply(case, reads).logits, want)
  for name in names:
    other = jax.tree.map(lambda x: x[::-1], inputs[name])
    changed = _apply(case, {**inputs, name: other}).logits
    assert np.abs(changed - want).max() > 1e-6, name


@pytest.mark.parametrize('case', toys.GATED)
def test_a_gated_mixture_mixes_its_experts(case):
  model, _ = _make(case)
  outputs = _apply(case)
  assert set(outputs.unimodal) == set(outputs.weights) == set(model.paths)
  np.testing.assert_allclose(sum(outputs.weights.values()), np.ones(BATCH), atol=1e-6)
  mixed = 0
  for path in model.paths:
    alone = _expert_logits(case, path)
    np.testing.assert_allclose(outputs.unimodal[path], alone, atol=1e-5)
    mixed += outputs.weights[path][:, None] * alone
  np.testing.assert_allclose(outputs.logits, mixed, atol=1e-5)


@pytest.mark.parametrize('case', toys.GATED)
def test_a_hard_gate_returns_the_logits_of_the_chosen_expert(case):
  model, variables = _make(case)
  outputs = _apply(case, hparams=HARD)
  gated, _ = model.apply(variables, INPUTS, train=False, hparams=HARD, method='route')
  for row, choice in enumerate(np.argmax(gated.logits, axis=-1)):
    chosen = model.paths[choice]
    assert [float(outputs.weights[path][row]) for path in model.paths] == [
      float(path == chosen) for path in model.paths
    ]
    np.testing.assert_array_equal(outputs.logits[row], outputs.unimodal[chosen][row])


def test_weights_are_in_the_order_of_paths_not_of_names():
  """The gate's first output is the first path, whatever its name."""
  model, _ = _make('gated_mixture')
  assert model.paths == ('text', 'joint')
  outputs = _apply('gated_mixture')
  want = jax.nn.softmax(outputs.aux['gate_logits'] / SOFT['gate_temperature'])
  np.testing.assert_allclose(outputs.weights['text'], want[:, 0], atol=1e-6)
  np.testing.assert_allclose(outputs.weights['joint'], want[:, 1], atol=1e-6)


def test_a_cascade_runs_the_cheap_expert_once_and_reads_nothing_else():
  case = 'gated_mixture-cascade'
  model, variables = _make(case)
  assert route_names(model) == ('text',)
  gated, known = model.apply(
    variables,
    {'text': INPUTS['text']},
    train=False,
    hparams=SOFT,
    method='route',
  )
  outputs = _apply(case)
  np.testing.assert_allclose(gated.logits, outputs.aux['gate_logits'], atol=1e-6)
  np.testing.assert_allclose(known['text'].logits, outputs.unimodal['text'], atol=1e-6)
  # What it reads: 4 hidden values, the logits, and one confidence; its layer has 4.
  reads = 4 + toys.CLASSES + 1
  gate = reads * 4 + 4 * 2
  alone = {
    path: build.stage(toys.config(toys.MODELS[case]['experts'][path]), toys.SPEC).costs
    for path in model.paths
  }
  costs = build.stage(toys.config(toys.MODELS[case]), toys.SPEC).costs
  text, joint = alone['text'].total, alone['joint'].total
  assert costs.paths == {'text': text + gate, 'joint': text + gate + joint}
  mixing = len(model.paths) * toys.CLASSES
  assert costs.total == text + gate + joint + mixing


def test_decision_fusion_averages_its_experts():
  outputs = _apply('decision_fusion')
  alone = [_expert_logits('decision_fusion', name) for name in ('image', 'text')]
  np.testing.assert_allclose(outputs.logits, np.mean(alone, axis=0), atol=1e-5)
  assert set(outputs.unimodal) == {'image', 'text'}


def test_feature_fusion_hands_on_what_its_fusion_says_of_each_modality():
  fusion = dict(name='mm_dynamics', features=3)
  stage = build.stage(toys.config({**toys.joint(), 'fusion': fusion}), toys.SPEC)
  outputs = jax.eval_shape(
    lambda: stage.model.init_with_output(
      jax.random.key(0), INPUTS, train=False, hparams=SOFT
    )
  )[0]
  assert set(outputs.unimodal) == set(outputs.weights) == {'audio', 'image', 'text'}
  for name, logits in outputs.unimodal.items():
    assert logits.shape == outputs.logits.shape
    assert outputs.aux[f'informativeness/{name}'].shape == (BATCH,)
