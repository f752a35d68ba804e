"""Fusions of votes: who is absent, what weighs, and what trains the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdyn.fusions import FUSIONS

pytestmark = pytest.mark.usefixtures('compile_fast')

ROWS, CLASSES, NAMES = 6, 3, ('a', 'b', 'c')
RANDOM = np.random.default_rng(0)
VOTES = {
  name: np.float32(3 * RANDOM.standard_normal((ROWS, CLASSES))) for name in NAMES
}
HIDDEN = {name: np.float32(RANDOM.standard_normal((ROWS, 4))) for name in NAMES}
PRESENT = {'a': np.array([1, 1, 0, 0, 1, 0], bool), 'c': np.arange(ROWS) % 2 == 0}

# Every fusion with masks, and its options.
CASES = {
  'average': ('average', {}),
  'energy_weighted': ('energy_weighted', {}),
  'energy_weighted-softmax': ('energy_weighted', {'normalize': 'softmax'}),
  'energy_weighted-sum': ('energy_weighted', {'normalize': 'sum', 'temperature': 2.0}),
  'evidential': ('evidential', {}),
  'learned_confidence': ('learned_confidence', {}),
  'learned_confidence-relative': ('learned_confidence', {'relative': True}),
  'product_of_experts': ('product_of_experts', {}),
  'product_of_experts-mixture': ('product_of_experts', {'evaluate': 'mixture'}),
}


def _module(case):
  name, options = CASES[case]
  return FUSIONS[name](**options)


def _apply(module, variables, votes, present=None, train=False):
  context = {'present': present or {}, 'hidden': {n: HIDDEN[n] for n in votes}}
  context = {name: context[name] for name in module.context}
  return module.apply(variables, votes, train=train, **context)


def _variables(module):
  """Of three experts, with confidences that are neither 0 nor 1."""
  if 'hidden' not in module.context:
    return {}
  random = np.random.default_rng(1)
  layer = lambda: {  # noqa: E731
    'kernel': np.float32(random.standard_normal((4, 1))),
    'bias': np.float32(random.standard_normal(1)),
  }
  return {'params': {f'{name}_0': layer() for name in NAMES}}


def test_every_fusion_with_masks_has_a_case():
  masked = {k for k, cls in FUSIONS.items() if 'present' in getattr(cls, 'context', ())}
  assert {name for name, _ in CASES.values()} == masked


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('train', [False, True])
def test_who_is_absent_might_as_well_not_be_asked(case, train):
  module = _module(case)
  variables = _variables(module)

  @jax.jit
  def run(votes, present):
    return _apply(module, variables, votes, present, train)

  votes = jax.tree.map(jnp.array, VOTES)
  for name, mask in PRESENT.items():  # What an absent one says is no matter.
    votes[name] = jnp.where(mask[:, None], votes[name], jnp.array([9.0, -9.0, 0.0]))
  got = run(votes, PRESENT)
  there = np.stack([PRESENT.get(n, np.ones(ROWS, bool)) for n in NAMES], axis=1)
  for pattern in np.unique(there, axis=0):
    rows = (there == pattern).all(axis=1)
    asked = [name for name, is_there in zip(NAMES, pattern, strict=True) if is_there]
    want = run({name: VOTES[name] for name in asked}, {})
    np.testing.assert_allclose(got.value[rows], want.value[rows], atol=1e-5)
    for name in want.weights:
      np.testing.assert_allclose(
        got.weights[name][rows], want.weights[name][rows], atol=1e-5
      )
    for name in set(got.weights) - set(asked):
      np.testing.assert_array_equal(got.weights[name][rows], 0)
    for key in ('evidence/conflict', 'evidence/vacuity'):
      if key in want.aux:
        np.testing.assert_allclose(got.aux[key][rows], want.aux[key][rows], atol=1e-5)


@pytest.mark.parametrize('case', CASES)
def test_where_nobody_is_there_all_count(case):
  module = _module(case)
  variables, nobody = _variables(module), {name: np.zeros(ROWS, bool) for name in NAMES}
  blank = {name: np.zeros_like(vote) for name, vote in VOTES.items()}

  @jax.jit
  def run(votes, present):
    def value(votes):
      return _apply(module, variables, votes, present).value

    result, pull = jax.vjp(value, votes)
    return result, pull(result)

  (got, gradient), (want, _) = run(VOTES, nobody), run(VOTES, {})
  np.testing.assert_allclose(got, want, atol=1e-6)
  for leaf in (*run(blank, nobody), gradient):
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(leaf))


def _energies(temperature=1.0, scale=0.1, centered=False):
  found = {}
  for name, vote in VOTES.items():
    vote = vote.astype(np.float64)
    if centered:
      vote = vote - vote.mean(axis=1, keepdims=True)
    total = np.exp(vote / temperature).sum(axis=1)
    found[name] = scale * temperature * np.log(total)
  return found


@pytest.mark.parametrize(
  'options', [{}, {'temperature': 3.0, 'scale': 0.5}, {'centered': True}]
)
@pytest.mark.parametrize('normalize', ['none', 'sum', 'softmax'])
def test_energies_are_weights(options, normalize):
  want = _energies(**options)
  if normalize != 'none':
    shape = np.exp if normalize == 'softmax' else np.asarray
    total = sum(shape(energy) for energy in want.values())
    want = {name: shape(energy) / total for name, energy in want.items()}
  module = FUSIONS['energy_weighted'](normalize=normalize, **options)
  fused = _apply(module, {}, VOTES)
  for name in NAMES:
    np.testing.assert_allclose(fused.weights[name], want[name], rtol=1e-4)
  value = sum(want[name][:, None] * VOTES[name] for name in NAMES)
  np.testing.assert_allclose(fused.value, value, rtol=1e-3, atol=1e-5)


def test_a_constant_on_all_logits_changes_energies_that_are_not_centered():
  for centered in (True, False):
    module = FUSIONS['energy_weighted'](centered=centered)
    shifted = {name: vote + 5.0 for name, vote in VOTES.items()}
    weights, moved = (_apply(module, {}, x).weights for x in (VOTES, shifted))
    for name in NAMES:
      change = np.abs(moved[name] - weights[name]).max()
      assert (change < 1e-5) if centered else (change > 0.4)


@pytest.mark.parametrize('detach', [True, False])
def test_the_prediction_trains_energies_only_if_they_are_not_detached(detach):
  module = FUSIONS['energy_weighted'](detach=detach)

  def total(votes):
    return jnp.sum(_apply(module, {}, votes).value)

  gradient, energies = jax.grad(total)(VOTES), _energies()
  for name, vote in VOTES.items():
    want = np.repeat(energies[name][:, None], CLASSES, axis=1)
    if not detach:  # The derivative of the energy is a softmax.
      want = want + 0.1 * np.asarray(jax.nn.softmax(vote)) * vote.sum(1, keepdims=True)
    np.testing.assert_allclose(gradient[name], want, rtol=1e-4, atol=1e-5)
  asked = jax.grad(lambda v: jnp.sum(_apply(module, {}, v).weights['a']))(VOTES)
  assert np.any(asked['a'])  # Loss `rank` trains them.


def _chances(variables):
  """The predicted probabilities, in float64."""
  found = {}
  for name in NAMES:
    layer = variables['params'][f'{name}_0']
    odds = HIDDEN[name].astype(np.float64) @ layer['kernel'] + layer['bias']
    found[name] = 1 / (1 + np.exp(-odds[:, 0]))
  return found


def _softmax(values):
  total = sum(np.exp(value) for value in values.values())
  return {name: np.exp(value) / total for name, value in values.items()}


@pytest.mark.parametrize('names', [('a', 'b'), NAMES])
@pytest.mark.parametrize('relative', [False, True])
@pytest.mark.parametrize('train', [False, True])
def test_beliefs_are_those_of_predictive_dynamic_fusion(names, relative, train):
  module = FUSIONS['learned_confidence'](relative=relative)
  variables = _variables(module)
  votes = {name: VOTES[name] for name in names}
  fused = _apply(module, variables, votes, train=train)
  chances = {name: _chances(variables)[name] for name in names}
  belief = {}
  for name in names:
    others = sum(-np.log(chances[other]) for other in names if other != name)
    belief[name] = chances[name] + others / sum(-np.log(p) for p in chances.values())
    np.testing.assert_allclose(fused.aux[f'confidence/{name}'], chances[name], 1e-5)
  if relative and not train:
    distance = {
      name: np.abs(np.asarray(jax.nn.softmax(vote)) - 1 / CLASSES).mean(axis=1)
      for name, vote in votes.items()
    }
    most = np.max(list(distance.values()), axis=0)
    belief = {name: belief[name] * distance[name] / most for name in names}
  want = _softmax(belief)
  for name in names:
    np.testing.assert_allclose(fused.weights[name], want[name], rtol=1e-4)
  value = sum(want[name][:, None] * vote for name, vote in votes.items())
  np.testing.assert_allclose(fused.value, value, rtol=1e-3, atol=1e-5)


def test_beliefs_of_two_are_those_of_the_released_formulas():
  """For a and b alone: the cross-entropy ratio, and the released case distinction."""
  module = FUSIONS['learned_confidence'](relative=True)
  variables = _variables(module)
  a, b = (_chances(variables)[name] for name in 'ab')
  belief_a = a + np.log(b) / np.log(a * b)
  belief_b = b + np.log(a) / np.log(a * b)
  off_a, off_b = (
    np.mean(np.abs(np.asarray(jax.nn.softmax(VOTES[name])) - 1 / CLASSES), axis=1)
    for name in 'ab'
  )
  surer = off_a > off_b
  assert 0 < surer.sum() < ROWS
  want = _softmax(
    {
      'a': belief_a * np.where(surer, 1, off_a / off_b),
      'b': belief_b * np.where(surer, off_b / off_a, 1),
    }
  )
  fused = _apply(module, variables, {name: VOTES[name] for name in 'ab'})
  for name in 'ab':
    np.testing.assert_allclose(fused.weights[name], want[name], rtol=1e-4)


def test_beliefs_are_taught_by_their_loss_alone():
  module = FUSIONS['learned_confidence']()
  variables = _variables(module)

  def of(pick):
    def value(params, votes, hidden):
      fused = module.apply(params, votes, train=True, hidden=hidden)
      return sum(jnp.sum(jnp.sin(x)) for x in pick(fused))

    return jax.jit(jax.grad(value, (0, 1, 2)))(variables, VOTES, HIDDEN)

  network, votes, hidden = of(lambda fused: [fused.value])
  assert not any(np.any(x) for x in jax.tree.leaves((network, hidden)))
  assert all(np.any(x) for x in jax.tree.leaves(votes))
  network, votes, hidden = of(lambda fused: fused.aux.values())
  assert all(np.any(x) for x in jax.tree.leaves(network))
  assert not any(np.any(x) for x in jax.tree.leaves((votes, hidden)))


def test_a_mixture_of_far_votes_is_finite():
  votes = {'a': np.float32([[0, 300]]), 'b': np.float32([[0, 200]])}
  module = FUSIONS['product_of_experts'](evaluate='mixture')
  fused = module.apply({}, votes, train=False)
  np.testing.assert_allclose(fused.value, [[-200 - np.log(2), 0]], atol=1e-4)


def test_evidence_of_a_view_is_the_softplus_of_its_logits():
  fused = _apply(FUSIONS['evidential'](), {}, VOTES)
  for name, vote in VOTES.items():
    evidence = np.log1p(np.exp(vote.astype(np.float64)))
    np.testing.assert_allclose(fused.unimodal[name], np.log1p(evidence), rtol=1e-5)
    unsure = CLASSES / (evidence.sum(axis=1) + CLASSES)
    np.testing.assert_allclose(fused.aux[f'evidence/vacuity/{name}'], unsure, rtol=1e-5)
    np.testing.assert_allclose(fused.weights[name], 1 - unsure, rtol=1e-4)


@pytest.mark.parametrize(
  ('run', 'message'),
  [
    (
      lambda: _apply(FUSIONS['energy_weighted'](normalize='mean'), {}, VOTES),
      "normalize='mean'; expected none, softmax or sum",
    ),
    (
      lambda: FUSIONS['product_of_experts'](evaluate='sum'),
      "evaluate='sum'; expected product or mixture",
    ),
    (
      lambda: FUSIONS['learned_confidence']().init(
        jax.random.key(0), VOTES, train=False, hidden={**HIDDEN, 'b': None}
      ),
      "hidden state of every expert, and 'b' has none",
    ),
  ],
)
def test_what_cannot_be_is_refused(run, message):
  with pytest.raises(ValueError, match=message):
    run()
