"""Masked attention against its formulas, and what it must not see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdyn.fusions import FUSIONS, MaskedAttention

pytestmark = pytest.mark.usefixtures('compile_fast')

STEPS, WIDTHS = 4, {'audio': 2, 'text': 6}
LENGTH = np.array([4, 2, 1])


def sequences(padding=0.0):
  """With this added to the steps that do not exist."""
  padded = (np.arange(STEPS) >= LENGTH[:, None])[..., None]
  return {
    name: {
      'steps': jax.random.normal(jax.random.key(width), (3, STEPS, width))
      + padding * padded,
      'length': LENGTH,
    }
    for name, width in WIDTHS.items()
  }


def model(**options):
  module = MaskedAttention(features=5, fusion=FUSIONS['average'](), **options)
  return module, module.init(jax.random.key(1), sequences(), train=False)


def test_it_is_what_its_formulas_say():
  module, variables = model()
  found = module.apply(variables, sequences(), train=False)
  params = jax.tree.map(np.asarray, variables['params'])
  for i, length in enumerate(LENGTH):
    row = {name: np.asarray(x['steps'][i, :length]) for name, x in sequences().items()}
    y = {name: x @ params[f'project_{name}']['kernel'] for name, x in row.items()}
    y['text'] /= np.linalg.norm(y['text']) ** 0.5
    scores = sum(np.maximum(value @ value[0], 0) for value in y.values()) / 2
    attention = np.exp(scores) / np.exp(scores).sum()
    mean = attention @ row['text'] + row['text'][0]
    out = mean @ params['out']['kernel'] + params['out']['bias']
    want = (out - out.mean()) / out.std()
    np.testing.assert_allclose(found.value[i], want, rtol=1e-4, atol=1e-5)
  assert set(found.weights) == set(WIDTHS)  # The inner fusion's.


@pytest.mark.parametrize('released', [False, True])
def test_padding_and_neighbours_matter_only_as_released(released):
  module, variables = model(released=released)
  # An equilibrium over the steps would let padding through; the average does not.
  fusion = FUSIONS['equilibrium'](solver='picard')
  inner = MaskedAttention(features=5, fusion=fusion, released=released)
  weights = inner.init(jax.random.key(1), sequences(), train=False)

  @jax.jit
  def run(x):
    return (
      module.apply(variables, x, train=False).value,
      inner.apply(weights, x, train=False).value,
    )

  first = jax.tree.map(lambda leaf: leaf[1:2], sequences())
  value, equilibrium = run(sequences())
  alone, _ = run(first)
  _, padded = run(sequences(padding=1.0))
  assert np.allclose(alone[0], value[1], atol=1e-5) != released
  assert np.array_equal(padded, equilibrium) != released


def test_dropout_is_that_of_attention_and_of_the_output():
  kept, _ = model(attention_dropout=0.0, dropout=0.0)
  rngs = {'dropout': jax.random.key(0)}
  variables = model()[1]
  want = kept.apply(variables, sequences(), train=True, rngs=rngs).value
  for rates in ((0.5, 0.0), (0.0, 0.5)):
    module, _ = model(attention_dropout=rates[0], dropout=rates[1])
    got = module.apply(variables, sequences(), train=True, rngs=rngs).value
    assert not np.allclose(got, want, atol=1e-3)
    evaluated = module.apply(variables, sequences(), train=False).value
    np.testing.assert_array_equal(evaluated, want)


@pytest.mark.parametrize(
  ('options', 'steps', 'message'),
  [
    ({'query': 'smell'}, STEPS, r"query='smell' is not one of \['audio', 'text'\]"),
    ({}, STEPS + 1, r"equally many steps, got \{'audio': 5, 'text': 4\}"),
  ],
)
def test_what_does_not_fit_is_refused(options, steps, message):
  x = {'audio': jnp.ones((2, steps, 3)), 'text': jnp.ones((2, STEPS, 3))}
  with pytest.raises(ValueError, match=message):
    MaskedAttention(**options).init(jax.random.key(0), x, train=False)
