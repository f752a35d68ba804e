"""Counted MACs against closed forms and the published constants of DynMM."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jdyn import cost
from jdyn.encoders import MLP, Identity, MaxOutMLP, Transformer
from jdyn.fusions import Concat
from jdyn.gates import LearnedGate
from jdyn.models import FeatureFusion, GatedMixture, Unimodal

X = jax.ShapeDtypeStruct((2, 3), jnp.float32)
W = np.ones((3, 3), np.float32)
ONCE = 2 * 3 * 3


def cell(x):
  return x @ W


@jax.custom_vjp
def with_vjp(x):
  return cell(x)


with_vjp.defvjp(lambda x: (cell(x), x), lambda _, g: (cell(cell(g)),))


def root(x):
  def solve(matvec, b):
    return lax.custom_linear_solve(
      matvec, b, lambda m, b: m(m(b)), transpose_solve=lambda m, b: m(b)
    )

  return solve(cell, x)


PROGRAMS = {
  'dense': (cell, 1),
  'no products': (lambda x: jnp.sum(jax.nn.softmax(x * x)), 0),
  'jit': (lambda x: jax.jit(lambda y: jax.jit(cell)(cell(y)))(x), 2),
  'remat': (jax.checkpoint(cell), 1),
  'custom_jvp': (lambda x: jax.nn.silu(cell(x)), 1),
  'custom_vjp': (with_vjp, 1),
  'linear solve': (root, 2),
  'scan': (lambda x: lax.scan(lambda c, _: (cell(c), None), x, None, length=7)[0], 7),
  'fori': (lambda x: lax.fori_loop(0, 4, lambda _, c: cell(cell(c)), x), 8),
  'cond': (lambda x: lax.cond(x[0, 0] > 0, lambda y: cell(cell(y)), cell, x), 2),
  'switch': (lambda x: lax.switch(1, [cell, jnp.sin, lambda y: cell(cell(y))], x), 2),
  'vmap': (lambda x: jax.vmap(lambda row: row @ W)(x), 1),
  'gradient': (lambda x: jax.grad(lambda y: jnp.sum(cell(y) ** 2))(x), 2),
}


@pytest.mark.parametrize('name', PROGRAMS)
def test_programs_match_closed_forms(name):
  fn, times = PROGRAMS[name]
  assert cost.count_macs(fn, X) == times * ONCE


def test_batched_and_contracted_axes():
  a = jax.ShapeDtypeStruct((5, 2, 3, 4), jnp.float32)
  b = jax.ShapeDtypeStruct((5, 4, 3, 6), jnp.float32)
  got = cost.count_macs(lambda a, b: jnp.einsum('nijk,nkjl->nil', a, b), a, b)
  assert got == 5 * 2 * 6 * 3 * 4


@pytest.mark.parametrize(
  ('layer', 'shape', 'expected'),
  [
    (nn.Conv(8, (3, 3), padding='SAME'), (1, 6, 6, 4), 6 * 6 * 8 * 9 * 4),
    (nn.Conv(8, (3, 3), strides=2, padding='VALID'), (1, 7, 7, 4), 3 * 3 * 8 * 9 * 4),
    (nn.Conv(8, (3, 1), feature_group_count=4), (2, 6, 6, 4), 2 * 6 * 6 * 8 * 3),
    (nn.Conv(8, (3,), kernel_dilation=2), (2, 6, 4), 2 * 6 * 8 * 3 * 4),
    (nn.ConvTranspose(5, (2, 2), strides=(2, 2)), (1, 4, 4, 3), 16 * 4 * 3 * 5),
  ],
)
def test_convolutions_match_closed_forms(layer, shape, expected):
  x = jax.ShapeDtypeStruct(shape, jnp.float32)
  variables = jax.eval_shape(layer.init, jax.random.key(0), x)
  assert cost.count_macs(layer.apply, variables, x) == expected
  if isinstance(layer, nn.Conv):
    assert cost.thop_macs(layer.apply, variables, x) == expected


def test_image_stem_with_head():
  class Stem(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = nn.Conv(64, (7, 7), strides=2, padding=3, use_bias=False)(x)
      return nn.Dense(10)(x.mean((1, 2)))

  x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  variables = jax.eval_shape(Stem().init, jax.random.key(0), x)
  for count in (cost.count_macs, cost.thop_macs):
    assert count(Stem().apply, variables, x) == 118_014_592


def test_while_needs_a_measured_trip_count():
  def loop(x):
    return lax.while_loop(lambda c: jnp.sum(cell(c)) < 9, lambda c: cell(cell(c)), x)

  with pytest.raises(ValueError, match='pass trip_count'):
    cost.count_macs(loop, X)
  assert cost.count_macs(loop, X, trip_count=5) == (5 * 2 + 6) * ONCE


def _bounded(*conditions):
  """Runs `cell` while all conditions on `(counter, x)` hold."""

  def loop(x):
    return lax.while_loop(
      lambda c: functools.reduce(jnp.logical_and, [f(*c) for f in conditions]),
      lambda c: (c[0] + 1, cell(c[1])),
      (jnp.int32(0), x),
    )

  return loop


@pytest.mark.parametrize(
  ('conditions', 'rounds'),
  [
    ([lambda i, x: i < 7], 7),
    ([lambda i, x: i < 7, lambda i, x: jnp.any(x > 0)], 7),
    ([lambda i, x: i < 7, lambda i, x: x[0, 0] < 3.0], 7),
    ([lambda i, x: i < x.shape[0]], 2),
  ],
)
def test_a_loop_with_a_cap_is_charged_the_cap(conditions, rounds):
  loop = _bounded(*conditions)
  assert cost.count_macs(loop, X) == rounds * ONCE
  assert cost.count_macs(loop, X, trip_count=3) == 3 * ONCE


@pytest.mark.parametrize(
  'conditions',
  [
    [lambda i, x: i < jnp.sum(x).astype(jnp.int32)],
    [lambda i, x: x[0, 0] < 7.0],
    [lambda i, x: jnp.any(x > 0)],
    [lambda i, x: i + 1 < 7],
    [lambda i, x: i < 7, lambda i, x: i < 3],
  ],
)
def test_a_loop_without_a_constant_cap_needs_a_measured_count(conditions):
  with pytest.raises(ValueError, match='pass trip_count'):
    cost.count_macs(_bounded(*conditions), X)


def test_device_parallel_programs_are_refused():
  mesh = jax.make_mesh((1,), ('data',), devices=jax.devices()[:1])
  spec = jax.sharding.PartitionSpec()
  mapped = jax.shard_map(cell, mesh=mesh, in_specs=spec, out_specs=spec)
  with pytest.raises(ValueError, match='shard_map'):
    cost.count_macs(mapped, X)


def test_path_macs_is_per_example_and_includes_the_gate():
  inputs = {'a': X, 'b': jax.ShapeDtypeStruct((2, 4), jnp.float32)}
  variables = {'gate': jax.ShapeDtypeStruct((4, 2), jnp.float32)}
  paths = {'cheap': lambda v, i: i['a'], 'rich': lambda v, i: cell(cell(i['a']))}
  got = cost.path_macs(lambda v, i: i['b'] @ v['gate'], paths, variables, inputs)
  assert got == {'cheap': 8, 'rich': 8 + 18}
  got = cost.path_macs(None, paths, variables, inputs)
  assert got == {'cheap': 0, 'rich': 18}


def test_expected_macs_and_its_gradient():
  weights = jnp.array([[1.0, 0.0], [0.25, 0.75]])
  costs = [8, 24]
  np.testing.assert_allclose(cost.expected_macs(weights, costs), [8.0, 20.0])
  gradient = jax.grad(lambda w: cost.expected_macs(w, costs).mean())(weights)
  np.testing.assert_allclose(gradient, [[4.0, 12.0], [4.0, 12.0]])


class _Block(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = x + nn.MultiHeadDotProductAttention(num_heads=2)(x)
    x = nn.LayerNorm()(x)
    return nn.BatchNorm(use_running_average=True)(nn.Dense(5)(x))


@pytest.mark.parametrize('norm_ops', [2, 4])
def test_thop_rule_skips_attention_and_layer_norm(norm_ops):
  x = jax.ShapeDtypeStruct((1, 7, 4), jnp.float32)
  variables = jax.eval_shape(_Block().init, jax.random.key(0), x)
  apply = _Block().apply
  expected = 7 * 4 * 5 + norm_ops * 7 * 5
  # The second trace must not come from a cache in which no module is called.
  for _ in range(2):
    assert cost.thop_macs(apply, variables, x, norm_ops=norm_ops) == expected
  projections, products = 4 * 7 * 4 * 4, 2 * 7 * 7 * 4
  true = 7 * 4 * 5 + projections + products
  assert cost.count_macs(_Block().apply, variables, x) == true


def f32(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


class WholeTransformer(nn.Module):
  """Computes every step of the last block as well, as the original does."""

  features: int

  @nn.compact
  def __call__(self, x, *, train):
    steps = Transformer(self.features, readout='steps', name='inner')(x, train=train)
    return steps[:, -1]


def mmimdb():
  """Spec of the inputs, and DynMM's network for MM-IMDB."""

  def encoder(hidden):
    return MaxOutMLP(hidden=hidden)

  return {'text': f32(1, 300), 'image': f32(1, 4096)}, GatedMixture(
    experts={
      'text': Unimodal('text', MLP(512, (512,)), MLP(23, (512,))),
      'joint': FeatureFusion(
        {'text': encoder((512, 512)), 'image': encoder((1024, 512))},
        Concat(),
        MLP(23),
      ),
    },
    paths=('text', 'joint'),
    gate=LearnedGate(Identity(), MLP(2, (128,))),
    gate_inputs=('text', 'image'),
  )


def mosei(transformer):
  """Spec of the inputs, and DynMM's network for CMU-MOSEI at 50 steps."""
  widths = {'vision': 35, 'audio': 74, 'text': 300}
  inputs = {
    name: {'steps': f32(1, 50, width), 'length': jax.ShapeDtypeStruct((1,), jnp.int32)}
    for name, width in widths.items()
  }
  encoders = {
    'vision': transformer(60),
    'audio': transformer(120),
    'text': transformer(120),
  }
  return inputs, GatedMixture(
    experts={
      'text': Unimodal('text', transformer(120), MLP(1, (64,))),
      'joint': FeatureFusion(encoders, Concat(), MLP(1, (128,))),
    },
    paths=('text', 'joint'),
    gate=LearnedGate(transformer(10), MLP(2)),
    gate_inputs=tuple(widths),
  )


def dynmm_macs(inputs, model, count):
  """Specs of the parameters, and MACs of the gate and of each expert."""
  options = {
    'train': False,
    'hparams': {'gate_temperature': 1.0, 'gate_hard': True},
  }

  def run(method, *args):
    return lambda v, i: model.apply(v, *args, i, method=method, **options)

  variables = jax.eval_shape(
    lambda i: model.init(jax.random.key(0), i, **options), inputs
  )
  experts = {path: run('expert', path) for path in model.paths}
  gate = cost.path_macs(None, {'gate': run('route')}, variables, inputs, count)
  paths = cost.path_macs(run('route'), experts, variables, inputs, count)
  return variables['params'], gate['gate'], paths


def parameters(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_published_constants_of_mmimdb():
  params, gate, paths = dynmm_macs(*mmimdb(), cost.thop_macs)
  assert gate == 562_944
  assert paths == {
    'text': 689_664 + gate,
    'joint': 10_292_224 + 2 * 6_956 + gate,
  }
  assert [round(macs / 1e6, 5) for macs in paths.values()] == [1.25261, 10.86908]
  assert parameters(params['experts_text']) == 691_223
  assert parameters(params['experts_joint']) == 10_311_279
  assert parameters(params['gate']) == 563_074
  newer = functools.partial(cost.thop_macs, norm_ops=4)
  assert dynmm_macs(*mmimdb(), newer)[2]['joint'] == 10_320_048 + gate
  true = dynmm_macs(*mmimdb(), cost.count_macs)[2]
  assert true == {'text': 689_664 + gate, 'joint': 10_292_224 + gate}


def test_published_constants_of_mosei():
  params, gate, paths = dynmm_macs(*mosei(WholeTransformer), cost.thop_macs)
  assert gate == 10_444_520
  assert [round(macs / 1e6, 5) for macs in paths.values()] == [135.13226, 320.03205]
  assert parameters(params['experts_text']) == 2_805_049
  assert parameters(params['experts_joint']) == 6_921_857
  assert parameters(params['gate']) == 221_602


def test_true_macs_of_mosei_include_attention():
  _, gate, paths = dynmm_macs(*mosei(WholeTransformer), cost.count_macs)
  experts = {path: round((macs - gate) / 1e6, 3) for path, macs in paths.items()}
  assert experts == {'text': 142.088, 'joint': 349.488}
  assert round(gate / 1e6, 3) == 10.795
  # Reading out one step saves the last block's queries, attention and
  # feed-forward net at all other steps; its keys and values stay.
  saved = sum(49 * 2 * width * (width + 50 + 2048) for width in (120, 10))
  _, gate, read_one = dynmm_macs(*mosei(Transformer), cost.count_macs)
  assert paths['text'] - read_one['text'] == saved
  assert round((read_one['text'] - gate) / 1e6, 1) == 116.0
