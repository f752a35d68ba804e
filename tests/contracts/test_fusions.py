"""What every fusion keeps, whatever it is made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jdyn.fusions import FUSIONS
from jdyn.typing import Fused
from tests.contracts.passes import (
  forward,
  random_variables,
  same_when_sharded,
  to_half,
  train_pass,
)

pytestmark = pytest.mark.usefixtures('compile_fast')

BATCH, STEPS = 8, 4
NAMES = ('text', 'audio', 'image', 'depth')

# Name in the table, options, shape of one example of a modality, how many
# modalities, width of the output by their number.
CASES = {
  'average': ('average', {}, (3,), (2, 4), lambda m: (3,)),
  'concat': ('concat', {}, (2, 3), (2, 4), lambda m: (6 * m,)),
  'concat-steps': ('concat', {'flatten': False}, (2, 3), (2,), lambda m: (2, 3 * m)),
  'energy_weighted': ('energy_weighted', {}, (3,), (2, 4), lambda m: (3,)),
  'equilibrium': (
    'equilibrium',
    {'solver': 'picard'},
    (4,),
    (1, 2, 4),
    lambda m: (4,),
  ),
  'equilibrium-steps': (
    'equilibrium',
    {'features': 6, 'groups': 2, 'cell': 'features', 'history': 2},
    (STEPS, 4),
    (2,),
    lambda m: (STEPS, 6),
  ),
  'equilibrium_released': (
    'equilibrium_released',
    {'max_steps': 10, 'adjoint_steps': 10, 'groups': 3},
    (6,),
    (2,),
    lambda m: (6,),
  ),
  'evidential': ('evidential', {}, (3,), (1, 2, 4), lambda m: (3,)),
  'learned_confidence': (
    'learned_confidence',
    {'hidden': (4,), 'relative': True},
    (3,),
    (2, 4),
    lambda m: (3,),
  ),
  'low_rank': (
    'low_rank',
    {'features': 5, 'rank': 2},
    (3,),
    (2, 4),
    lambda m: (5,),
  ),
  'masked_attention': (
    'masked_attention',
    {'fusion': FUSIONS['equilibrium'](solver='picard')},
    (STEPS, 3),
    (2,),
    lambda m: (3,),
  ),
  'masked_attention-released': (
    'masked_attention',
    {'released': True, 'fusion': FUSIONS['average']()},
    (STEPS, 3),
    (1, 2),
    lambda m: (3,),
  ),
  'mm_dynamics': (
    'mm_dynamics',
    {'num_outputs': 2, 'features': 5},
    (2, 3),
    (2, 4),
    lambda m: (5 * m,),
  ),
  'mm_dynamics-average': (
    'mm_dynamics',
    {'num_outputs': 2, 'features': 5, 'fusion': FUSIONS['average']()},
    (3,),
    (2,),
    lambda m: (5,),
  ),
  'mult': (
    'mult',
    {'features': 2, 'width': 4, 'heads': 1, 'layers': 1, 'memory_layers': 1},
    (STEPS, 3),
    (2,),
    lambda m: (2,),
  ),
  'multiplicative-matrix': (
    'multiplicative',
    {'features': 5},
    (3,),
    (2, 3),
    lambda m: (5,),
  ),
  'multiplicative-vector': (
    'multiplicative',
    {'kind': 'vector', 'context': 'text'},
    (3,),
    (2,),
    lambda m: (3,),
  ),
  'multiplicative-scalar': (
    'multiplicative',
    {'kind': 'scalar'},
    (3,),
    (2,),
    lambda m: (3,),
  ),
  'non_local': (
    'non_local',
    {'positions': 2, 'channels': 3, 'slots': 4, 'query': 'text'},
    (3,),
    (2, 4),
    lambda m: (6,),
  ),
  'product_of_experts': ('product_of_experts', {}, (3,), (1, 2, 4), lambda m: (3,)),
  'product_of_experts-mixture': (
    'product_of_experts',
    {'evaluate': 'mixture'},
    (3,),
    (2, 4),
    lambda m: (3,),
  ),
  'scalar_tokens': (
    'scalar_tokens',
    {'features': 4, 'blocks': 1, 'heads': 2, 'feedforward': 8},
    (3,),
    (2, 4),
    lambda m: (4,),
  ),
  'stack': ('stack', {}, (3,), (2, 4), lambda m: (3, m)),
  'tensor': ('tensor', {}, (3,), (2, 4), lambda m: (4**m,)),
}
SIZES = [(case, m) for case, (_, _, _, counts, _) in CASES.items() for m in counts]
RANDOM = ('masked_attention-released', 'mm_dynamics', 'mult', 'scalar_tokens')


class _WithHidden(nn.Module):
  """A fusion that also reads the features behind the logits."""

  fusion: nn.Module

  def __call__(self, inputs, *, train):
    hidden = {name: jnp.cos(x) for name, x in inputs.items()}
    return self.fusion(inputs, train=train, hidden=hidden)


def _make(case, count):
  name, options, shape, _, width = CASES[case]
  keys = jax.random.split(jax.random.key(1), count)
  inputs = {
    modality: jax.random.normal(key, (BATCH, *shape))
    for modality, key in zip(NAMES, keys, strict=False)
  }
  module = FUSIONS[name](**options)
  if 'hidden' in getattr(module, 'context', ()):
    module = _WithHidden(module)
  return module, random_variables(module, inputs), inputs, width(count)


def test_every_fusion_has_a_case():
  assert {name for name, *_ in CASES.values()} == set(FUSIONS)


@pytest.mark.parametrize(('case', 'count'), SIZES)
def test_any_number_of_modalities_in_any_order(case, count):
  module, variables, inputs, width = _make(case, count)

  @jax.jit
  def run(variables, inputs):
    def loss(variables, inputs):
      fused = module.apply(variables, inputs, train=False)
      taught = [x for name, x in fused.aux.items() if name.startswith('confidence/')]
      parts = [fused.value, *fused.unimodal.values(), *taught]
      return sum(jnp.sum(jnp.sin(part)) for part in parts), fused

    gradient, fused = jax.grad(loss, (0, 1), has_aux=True)(variables, inputs)
    reverse = {name: inputs[name] for name in sorted(inputs, reverse=True)}
    return fused, module.apply(variables, reverse, train=False), gradient

  fused, reverse, gradient = run(variables, inputs)
  assert isinstance(fused, Fused)
  assert fused.value.shape == (BATCH, *width)
  assert np.isfinite(fused.value).all()
  for name, weight in fused.weights.items():
    assert name in inputs
    assert weight.shape == (BATCH,)
  np.testing.assert_allclose(reverse.value, fused.value, rtol=1e-5, atol=1e-5)
  for path, leaf in jax.tree.leaves_with_path(gradient):
    assert np.isfinite(leaf).all(), path
    assert np.any(leaf), path


@pytest.mark.parametrize('case', CASES)
def test_half_precision_stays_half_precision(case):
  module, variables, inputs, _ = _make(case, 2)
  y, _ = jax.eval_shape(
    lambda v, x: forward(module, v, x), to_half(variables), to_half(inputs)
  )
  assert y.dtype == jnp.bfloat16


@pytest.mark.parametrize('case', RANDOM)
def test_training_is_the_same_on_four_devices(case):
  module, variables, inputs, _ = _make(case, 1)  # More would only compile longer.
  same_when_sharded(module, variables, inputs, forward_only=True)


def test_mm_dynamics_is_what_its_formulas_say():
  module, variables, inputs, _ = _make('mm_dynamics', 2)
  fused = module.apply(variables, inputs, train=False)
  features, params = [], jax.tree.map(np.asarray, variables['params'])
  for name in sorted(inputs):

    def linear(x, kind, name=name):
      layer = params[f'{kind}_{name}']
      return x @ layer['kernel'] + layer['bias']

    x = np.asarray(inputs[name]).reshape(BATCH, -1)
    gate = 1 / (1 + np.exp(-linear(x, 'gate')))
    hidden = np.maximum(linear(x * gate, 'encoder'), 0)
    confidence = linear(hidden, 'confidence')
    features.append(hidden * confidence)
    close = dict(rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(fused.weights[name], confidence[:, 0], **close)
    logits = linear(hidden, 'classifier')
    np.testing.assert_allclose(fused.unimodal[name], logits, **close)
    open_share = fused.aux[f'informativeness/{name}']
    np.testing.assert_allclose(open_share, gate.mean(axis=1), **close)
  np.testing.assert_allclose(fused.value, np.concatenate(features, axis=1), **close)
  trained, _ = forward(module, variables, inputs)
  dropped = (trained == 0) & (fused.value != 0)
  assert 0.2 < np.sum(dropped) / np.sum(fused.value != 0) < 0.8


class _Telling(nn.Module):
  """A fusion that has something to say."""

  @nn.compact
  def __call__(self, inputs, *, train):
    return Fused(sum(inputs.values()), aux={'steps': jnp.ones(BATCH)})


def test_mm_dynamics_hands_on_what_the_fusion_inside_says():
  inputs = {'text': jnp.ones((BATCH, 3))}
  module = FUSIONS['mm_dynamics'](num_outputs=2, features=4, fusion=_Telling())
  fused, _ = module.init_with_output(jax.random.key(0), inputs, train=False)
  assert fused.value.shape == (BATCH, 4)
  assert set(fused.aux) == {'confidence/text', 'informativeness/text', 'steps'}


def test_average_says_what_it_weighs():
  module, variables, inputs, _ = _make('average', 4)
  fused = module.apply(variables, inputs, train=False)
  np.testing.assert_allclose(fused.value, sum(inputs.values()) / 4, atol=1e-6)
  assert set(fused.weights) == set(inputs)
  np.testing.assert_allclose(sum(fused.weights.values()), np.ones(BATCH))


def test_frozen_factors_have_no_gradient_and_the_same_value():
  module, variables, inputs, _ = _make('low_rank', 2)
  frozen = FUSIONS['low_rank'](features=5, rank=2, train_factors=False)

  @jax.jit
  def both(variables, inputs):
    return [train_pass(m, variables, inputs)[:2] for m in (module, frozen)]

  (value, gradient), (frozen_value, frozen_gradient) = both(variables, inputs)
  np.testing.assert_array_equal(frozen_value, value)
  for name, leaf in frozen_gradient.items():
    is_factor = name.startswith('factor')
    np.testing.assert_array_equal(leaf, 0 * leaf if is_factor else gradient[name])


@pytest.mark.parametrize(
  ('options', 'count', 'message'),
  [
    ({'features': 5}, 4, 'two or three inputs'),
    ({}, 2, 'features > 0'),
    ({'kind': 'vector'}, 3, 'take two'),
    ({'kind': 'scalar', 'features': 2}, 2, 'features=0'),
    ({'kind': 'tensor'}, 2, "kind='tensor'"),
    ({'features': 5, 'context': 'smell'}, 2, "context='smell'"),
  ],
)
def test_multiplicative_refuses_what_it_does_not_define(options, count, message):
  inputs = {name: jnp.ones((BATCH, 3)) for name in NAMES[:count]}
  with pytest.raises(ValueError, match=message):
    FUSIONS['multiplicative'](**options).init(jax.random.key(0), inputs, train=False)


def test_non_local_refuses_an_unknown_query():
  module = FUSIONS['non_local'](positions=1, channels=1, slots=1, query='smell')
  with pytest.raises(ValueError, match="query='smell' is not one of"):
    module.init(jax.random.key(0), {'text': jnp.ones((2, 3))}, train=False)


def test_mult_reads_sequences_up_to_their_length():
  module = FUSIONS['mult'](
    features=2, width=4, heads=1, layers=1, memory_layers=1, causal=False
  )
  length = {'text': jnp.array([4, 2, 1]), 'audio': jnp.array([3, 4, 2])}
  steps = {
    name: jax.random.normal(jax.random.key(i), (3, STEPS, 3))
    for i, name in enumerate(length)
  }

  def sequences(steps):
    return {name: {'steps': steps[name], 'length': length[name]} for name in steps}

  variables = random_variables(module, sequences(steps))
  apply = jax.jit(lambda x: module.apply(variables, x, train=False).value)
  changed = {
    name: jnp.where((np.arange(STEPS)[None] < length[name][:, None])[..., None], x, 9.0)
    for name, x in steps.items()
  }
  np.testing.assert_array_equal(apply(sequences(changed)), apply(sequences(steps)))
