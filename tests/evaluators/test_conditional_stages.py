"""Gated stages, conditionally executed, against their dense forward; what runs."""

import collections
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from jdyn.encoders.resnet import ResNet
from jdyn.evaluators.budget import calibrate, spend
from jdyn.evaluators.conditional import conditional, path_costs
from jdyn.models.esanet import ESANet
from jdyn.models.gated_stages import GatedStages
from jdyn.ops.straight_through import straight_through
from jdyn.typing import Gated
from tests.contracts.passes import random_variables

pytestmark = pytest.mark.usefixtures('compile_fast')

EXITS, BATCH, CLASSES = 5, 4, 3
HPARAMS = {'gate_temperature': jnp.float32(1), 'gate_hard': jnp.asarray(True)}
MACS = {f'exit_{k}': 30 + 10 * k for k in range(EXITS)}


class _Told(nn.Module):
  """A gate that chooses what its parameters say, row by row."""

  @nn.compact
  def __call__(self, features, *, train, hparams):
    logits = self.param('logits', nn.initializers.ones, (BATCH, EXITS))
    logits = logits[: len(features)]
    weights = straight_through(
      logits, temperature=hparams['gate_temperature'], hard=hparams['gate_hard']
    )
    return Gated(weights=weights, logits=logits)


class _Called(nn.Module):
  """A model as what draws its variables calls it."""

  model: nn.Module

  @nn.compact
  def __call__(self, x, *, train):
    return self.model(x, train=train, hparams=HPARAMS)


def _model():
  encoders = {name: ResNet('basic', (1,) * 4, (12,) * 4) for name in ('depth', 'rgb')}
  network = ESANet(encoders, CLASSES, widths=(12, 12, 12), blocks=(1, 1, 1))
  return GatedStages(network, _Told())


MODEL = _model()
DISPATCHER = conditional(MODEL, path_costs(MODEL, MACS))


@functools.cache
def _images():
  draw = np.random.default_rng(0).normal
  return {
    name: jnp.asarray(draw(size=(BATCH, 64, 64, channels)), jnp.float32)
    for name, channels in (('rgb', 3), ('depth', 1))
  }


def _one(row):
  return {name: x[row : row + 1] for name, x in _images().items()}


@functools.cache
def _random_variables():
  variables = random_variables(_Called(_model()), _images())
  return {name: tree['model'] for name, tree in variables.items()}


def _variables(logits):
  """Of a network whose gate gives these logits, `[rows, K]`."""
  variables = _random_variables()
  told = jnp.zeros((BATCH, EXITS)).at[: len(logits)].set(jnp.asarray(logits))
  params = {**variables['params'], 'gate': {'logits': told}}
  return {**variables, 'params': params}


def _choosing(exits):
  return _variables(np.eye(EXITS, dtype=np.float32)[list(exits)])


@functools.cache
def _forward():
  return jax.jit(lambda v, x: MODEL.apply(v, x, train=False, hparams=HPARAMS))


COMPOSITIONS = st.sets(st.integers(0, EXITS - 1), min_size=1).flatmap(
  lambda used: st.lists(st.sampled_from(sorted(used)), min_size=BATCH, max_size=BATCH)
)


@pytest.mark.parametrize('policy', ['dense', 'ladder', 'buckets', 'each'])
@settings(deadline=None, max_examples=20)
@given(exits=COMPOSITIONS)
def test_a_batch_equals_the_hard_gated_forward(policy, exits):
  variables = _choosing(exits)
  expected = _forward()(variables, _images())
  chosen, shared, logits = DISPATCHER((variables, HPARAMS), _images(), None, policy)
  np.testing.assert_array_equal(chosen, exits)
  np.testing.assert_allclose(logits, expected.logits, rtol=1e-5, atol=1e-5)
  assert shared['logits'] == {}
  np.testing.assert_array_equal(shared['gate_logits'], expected.aux['gate_logits'])


@pytest.mark.parametrize('number', range(EXITS))
def test_one_example_equals_the_hard_gated_forward(number):
  """And as none of its exits equals another, only the chosen one can have run."""
  variables = _choosing([number])
  chosen, _, logits = DISPATCHER((variables, HPARAMS), _one(0), None, 'switch')
  assert chosen.tolist() == [number]
  for other in range(EXITS):
    expected = _forward()(_choosing([other]), _one(0)).logits
    error = np.abs(np.asarray(logits) - expected).max() / np.abs(expected).max()
    assert (error <= 1e-5) == (other == number)


def test_a_budget_spends_as_on_mixtures():
  logits = np.random.default_rng(1).normal(size=(BATCH, EXITS)).astype(np.float32)
  costs = path_costs(MODEL, MACS)
  dial, model = calibrate(logits, costs), (_variables(logits), HPARAMS)
  taken = []
  for budget in (30, 52, 70):
    chosen, _, outputs = DISPATCHER(model, _images(), (dial, budget), 'buckets')
    np.testing.assert_array_equal(chosen, spend(dial, logits, costs, budget)[0])
    expected = _forward()(_choosing(chosen), _images()).logits
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)
    taken.append(chosen.tolist())
  assert taken[0] == [0] * BATCH
  assert taken[2] == [EXITS - 1] * BATCH
  assert len(set(taken[1])) > 1


PART = r'encoders_\w+\.(?:stem|stage/stages_\d)|fusions_\d'


def _places(text):
  """{part of the network: computations of a program that have its products}.

  What is fused or called counts as of the computation around it.
  """
  found, around, computation = [], {}, None
  for line in text.splitlines():
    if head := re.match(r'(ENTRY )?%?([\w.\-]+) .*\{$', line):
      computation = 'ENTRY' if head[1] else head[2]
    for inner in re.findall(r'(?:calls|to_apply)=%?([\w.\-]+)', line):
      around[inner] = computation
    if re.search(r' (convolution|dot)\(', line) and (part := re.search(PART, line)):
      found.append((part[0], computation))
  places = collections.defaultdict(set)
  for part, computation in found:
    while computation in around:
      computation = around[computation]
    places[part].add(computation)
  return places


def test_the_program_for_one_example_keeps_its_conditionals():
  """One per stage; in it are the depth stream and its fusion, and nothing twice."""
  program = jax.jit(DISPATCHER.program('switch'))
  args = (_choosing([0]), HPARAMS), _one(0), None, jnp.zeros(1, jnp.int32)
  text = program.lower(*args).compile().as_text()
  stages = range(EXITS - 1)
  assert text.count(' conditional(') == len(stages)
  places = _places(text)
  always = ['encoders_depth.stem', 'encoders_rgb.stem', 'fusions_0']
  always += [f'encoders_rgb.stage/stages_{stage}' for stage in stages]
  assert all(places.pop(part) == {'ENTRY'} for part in always)
  branches = [places[f'encoders_depth.stage/stages_{stage}'] for stage in stages]
  assert branches == [places[f'fusions_{stage + 1}'] for stage in stages]
  assert len(places) == 2 * len(stages)
  assert 'ENTRY' not in set.union(*branches)
  assert [len(branch) for branch in branches] == [1] * len(stages)
  assert len(set.union(*branches)) == len(stages)
