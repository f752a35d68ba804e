"""ESANet with exits: what runs is what the chosen exit needs, and what it costs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jdyn import cost
from jdyn.encoders.identity import Identity
from jdyn.encoders.resnet import ResNet
from jdyn.encoders.strided_conv import StridedConv
from jdyn.gates.learned import LearnedGate
from jdyn.layers.batch_norm import BatchNorm
from jdyn.models.esanet import ESANet
from jdyn.models.exits import POLICIES
from jdyn.models.gated_stages import GatedStages
from jdyn.ops import dispatch
from tests.contracts.passes import random_variables

pytestmark = pytest.mark.usefixtures('compile_fast')

EXITS, BATCH, CLASSES = 5, 6, 3
SOFT = {'gate_temperature': jnp.float32(0.5), 'gate_hard': jnp.asarray(False)}
HARD = {**SOFT, 'gate_hard': jnp.asarray(True)}
WEIGHTS = [f'exit_{k}' for k in range(EXITS)]


def _images(batch=BATCH, height=32, width=64):
  """Rows of unlike contrast, so that a gate tells them apart."""
  draw, contrast = np.random.default_rng(1).normal, np.geomspace(0.1, 4, batch)
  return {
    name: jnp.asarray(
      contrast[:, None, None, None] * draw(size=(batch, height, width, channels)),
      jnp.float32,
    )
    for name, channels in (('rgb', 3), ('depth', 1))
  }


def _network(names=('depth', 'rgb'), axis_name=None, **options):
  encoders = {
    name: ResNet('basic', (1,) * 4, (12, 4, 6, 8), axis_name=axis_name)
    for name in names
  }
  options = {'widths': (8, 6, 4), 'blocks': (1, 1, 1), **options}
  return ESANet(encoders, CLASSES, axis_name=axis_name, **options)


def _model(axis_name=None, noise=False, **options):
  encoder = StridedConv(EXITS, (3,), 3, axis_name)
  gate = LearnedGate(encoder, Identity(), noise, axis_name)
  network = _network(axis_name=axis_name)
  return GatedStages(network, gate, axis_name=axis_name, **options)


class _Called(nn.Module):
  """A model as what draws its variables calls it."""

  model: nn.Module

  @nn.compact
  def __call__(self, x, *, train):
    return self.model(x, train=train, hparams=SOFT)


@functools.cache
def _variables():
  variables = random_variables(_Called(_model()), _images())
  variables = {name: tree['model'] for name, tree in variables.items()}
  # The gate's features move with the contrast, and the likeliest exit with them.
  k = np.arange(EXITS)
  kernel = np.stack([0 * k, 6.4 * k - k**2 / 0.85, -5.2 * k])
  variables['params']['gate']['encoder']['out']['kernel'] = jnp.float32(kernel)
  return variables


@functools.cache
def _compiled(train=False, **options):
  model = _model(**options)

  def run(variables, hparams, key):
    return model.apply(
      variables,
      _images(),
      train=train,
      hparams=hparams,
      rngs={'gate': key},
      mutable=['batch_stats'],
    )

  return jax.jit(run)


def _apply(hparams, key=0, **options):
  return _compiled(**options)(_variables(), hparams, jax.random.key(key))


def _chosen(outputs):
  return np.stack([outputs.weights[name] for name in WEIGHTS], axis=-1)


@functools.cache
def _exits():
  """The logits of every exit, each from the stems' maps on its own."""
  model, variables = _model(), _variables()

  def run(maps, number):
    return model.apply(variables, number, maps, train=False, method='exit').logits

  _, maps = jax.jit(
    lambda x: model.apply(variables, x, train=False, hparams=HARD, method='route')
  )(_images())
  return maps, [jax.jit(functools.partial(run, number=k)) for k in range(EXITS)]


def test_a_hard_gate_gives_what_each_exit_alone_computes():
  outputs, _ = _apply(HARD)
  weights = _chosen(outputs)
  np.testing.assert_array_equal(weights, weights == weights.max(-1, keepdims=True))
  np.testing.assert_array_equal(
    weights.argmax(-1), outputs.aux['gate_logits'].argmax(-1)
  )
  assert len(set(weights.argmax(-1))) > 2, 'the test needs several exits'
  maps, exits = _exits()
  alone = np.stack([run(maps) for run in exits])
  assert len({row.tobytes() for row in alone}) == EXITS
  want = alone[weights.argmax(-1), np.arange(BATCH)]
  np.testing.assert_allclose(outputs.logits, want, rtol=1e-5, atol=1e-5)


def test_exits_are_paths_of_a_dispatch():
  maps, exits = _exits()
  one = [x[:1] for x in maps]
  switched = jax.jit(lambda chosen: dispatch.switch(chosen, one, exits))
  for k in (0, EXITS - 1):
    np.testing.assert_allclose(switched(jnp.array([k])), exits[k](one), atol=1e-5)


def test_soft_weights_blend_what_the_gate_learns_from():
  soft, hard = (_apply(given)[0] for given in (SOFT, HARD))
  weights = _chosen(soft)
  logits = np.asarray(soft.aux['gate_logits'], np.float64) / 0.5
  want = np.exp(logits - logits.max(-1, keepdims=True))
  np.testing.assert_allclose(weights, want / want.sum(-1, keepdims=True), atol=1e-5)
  assert np.abs(soft.logits - hard.logits).max() > 1e-3


@pytest.mark.parametrize('policy', ['learned', 'random'])
def test_only_a_gate_that_is_asked_learns(policy):
  model, variables = _model(policy=policy), _variables()

  @jax.jit
  @functools.partial(jax.grad, has_aux=True)
  def gradient(params, hparams):
    outputs, state = model.apply(
      {**variables, 'params': params},
      _images(),
      train=True,
      hparams=hparams,
      rngs={'gate': jax.random.key(0)},
      mutable=['batch_stats'],
    )
    return jnp.sum(jnp.sin(outputs.logits)), state['batch_stats']

  before = variables['batch_stats']
  for hparams in (SOFT, HARD):
    found, after = gradient(variables['params'], hparams)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    learns = [bool(np.any(leaf)) for leaf in jax.tree.leaves(found['gate'])]
    assert any(learns) == (policy == 'learned')
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, after)
    assert any(jax.tree.leaves(moved['gate'])) == (policy == 'learned')
    assert all(jax.tree.leaves(moved['network']['decoder']))


def test_every_policy_has_the_same_variables():
  def shapes(model):
    return jax.eval_shape(
      lambda: model.init(jax.random.key(0), _images(), train=False, hparams=SOFT)
    )

  found = [shapes(_model(policy=policy)) for policy in POLICIES]
  assert found[0] == found[1] == found[2]
  with pytest.raises(ValueError, match="policy='first'; expected one of"):
    shapes(_model(policy='first'))


def test_random_exits():
  def draw(key, train=True):
    return _chosen(_apply(SOFT, key, train=train, policy='random')[0])

  drawn = [draw(key) for key in range(12)]
  assert all((weights.sum(-1) == 1).all() for weights in drawn)
  assert (np.sum(drawn, axis=(0, 1)) > 0).all()
  np.testing.assert_array_equal(draw(3), drawn[3])
  # In evaluation in turn, so that a score can be repeated.
  assert draw(0, train=False).argmax(-1).tolist() == [0, 1, 2, 3, 4, 0]


def test_gumbel_noise_is_drawn_in_training_alone():
  model, variables = _model(noise=True), _variables()

  @functools.partial(jax.jit, static_argnums=1)
  def route(key, train):
    (gated, _), _ = model.apply(
      variables,
      _images(),
      train=train,
      hparams=HARD,
      rngs={'gate': key},
      mutable=['batch_stats'],
      method='route',
    )
    return gated.weights

  choices = [route(jax.random.key(i), True) for i in range(8)]
  assert len({weights.tobytes() for weights in np.asarray(choices)}) > 1
  without = _chosen(_apply(HARD)[0])
  np.testing.assert_array_equal(route(jax.random.key(0), False), without)


def test_the_last_exit_is_the_static_network():
  network, variables = _network(), _variables()
  own = {name: tree['network'] for name, tree in variables.items()}

  @functools.partial(jax.jit, static_argnums=0)
  def static(train):
    return network.apply(
      own, _images(), train=train, hparams={}, mutable=['batch_stats']
    )[0]

  for train, scales in ((False, ()), (True, (32, 16, 8))):
    dynamic, want = _apply(SOFT, train=train, policy='last')[0], static(train)
    assert _chosen(dynamic)[:, -1].all()
    np.testing.assert_allclose(dynamic.logits, want.logits, atol=1e-4)
    shapes = {name: x.shape for name, x in want.aux.items()}
    assert shapes == {f'down_{k}': (BATCH, 32 // k, 64 // k, CLASSES) for k in scales}
    assert {*dynamic.aux} == {*shapes, 'gate_logits'}


def test_every_norm_is_told_the_axis():
  seen = []

  def intercept(next_fn, args, kwargs, context):
    if isinstance(context.module, BatchNorm):
      seen.append(context.module.axis_name)
    return next_fn(*args, **kwargs)

  with nn.intercept_methods(intercept):
    model = _model('data')
    jax.eval_shape(
      lambda: model.init(jax.random.key(0), _images(), train=False, hparams=SOFT)
    )
  assert len(seen) > 30
  assert set(seen) == {'data'}


def test_initial_weights():
  """He et al.'s in the encoders, and PyTorch's defaults in all the rest."""
  initializers = {}

  def intercept(next_fn, args, kwargs, context):
    if (
      isinstance(context.module, nn.Conv) and 'upsample' not in context.module.path[-2]
    ):
      part = context.module.path[1].split('_')[0]
      initializers.setdefault(part, set()).add(context.module.kernel_init)
    return next_fn(*args, **kwargs)

  with nn.intercept_methods(intercept):
    model = _model()
    jax.eval_shape(
      lambda: model.init(jax.random.key(0), _images(), train=False, hparams=SOFT)
    )
  assert set(initializers) == {
    'context',
    'decoder',
    'encoder',
    'encoders',
    'fusions',
    'skip',
  }
  shape = (3, 3, 64, 32)
  for part, (init,) in initializers.items():
    weights = init(jax.random.key(0), shape)
    deviation = (2 / (9 * 32)) ** 0.5 if part == 'encoders' else (3 * 9 * 64) ** -0.5
    np.testing.assert_allclose(weights.std(), deviation, rtol=0.03)


@pytest.mark.parametrize('name', ['rgb', 'depth'])
def test_one_modality_is_a_network_too(name):
  network = _network((name,))
  assert network.available({name: None})
  assert not _network().available({name: None})
  images = {name: _images()[name]}
  shapes = jax.eval_shape(
    lambda: network.init_with_output(
      jax.random.key(0), images, train=False, hparams={}
    )[0]
  )
  assert shapes.logits.shape == (BATCH, 32, 64, CLASSES)


@pytest.mark.parametrize(
  ('options', 'size', 'problem'),
  [
    ({}, (40, 64), r'images of \{.*\(40, 64\).*both sides multiples of 32'),
    ({'main': 'lidar'}, (32, 64), r"one, or two of which one is main='lidar'"),
    ({'fusion': 'mul'}, (32, 64), "fusion='mul'; expected 'se_add' or 'add'"),
    ({'widths': (8, 4)}, (32, 64), r"widths=\(8, 4\) .* encoder's 4 stages"),
    ({'upsampling': 'cubic'}, (32, 64), "upsampling='cubic'; expected one of"),
    ({'activation': 'elu'}, (32, 64), "activation='elu'; expected one of"),
  ],
)
def test_what_does_not_fit_is_refused(options, size, problem):
  with pytest.raises(ValueError, match=problem):
    jax.eval_shape(
      lambda: _network(**options).init(
        jax.random.key(0), _images(1, *size), train=False, hparams={}
      )
    )


@pytest.mark.parametrize(
  ('model', 'problem'),
  [
    (ResNet('wide'), "block='wide'; expected one of"),
    (ResNet(blocks=(1, 1)), r'blocks=\(1, 1\) need one entry in widths='),
    (StridedConv(5, (8,) * 4), r'no window of size=5'),
  ],
)
def test_an_encoder_that_does_not_fit_is_refused(model, problem):
  with pytest.raises(ValueError, match=problem):
    jax.eval_shape(
      lambda: model.init(jax.random.key(0), _images(1)['rgb'], train=False)
    )


# What the original publishes, and what was counted on its code, at 480x640.

BACKBONES = {
  'r18': ('basic', (2, 2, 2, 2)),
  'r18-nbt1d': ('non_bottleneck_1d', (2, 2, 2, 2)),
  'r34': ('basic', (3, 4, 6, 3)),
  'r34-nbt1d': ('non_bottleneck_1d', (3, 4, 6, 3)),
  'r50': ('bottleneck', (3, 4, 6, 3)),
}


def _published(backbone, **options):
  """DynMM's network in its own sizes, its variables' shapes, and one example."""
  encoders = {name: ResNet(*BACKBONES[backbone]) for name in ('rgb', 'depth')}
  gate = LearnedGate(StridedConv(EXITS), Identity())
  network = ESANet(encoders, 40, **options)
  model = GatedStages(network, gate)
  example = {
    'rgb': jax.ShapeDtypeStruct((1, 480, 640, 3), jnp.float32),
    'depth': jax.ShapeDtypeStruct((1, 480, 640, 1), jnp.float32),
  }
  variables = jax.eval_shape(
    lambda x: model.init(jax.random.key(0), x, train=False, hparams=SOFT), example
  )
  return model, variables, example


def _follow(model, path):
  """What one exit runs, from the images on, the gate included."""
  return lambda variables, x: model.apply(
    variables, path, x, train=False, hparams=SOFT, method='follow'
  )


def _parameters(variables):
  return sum(leaf.size for leaf in jax.tree.leaves(variables['params']))


@pytest.mark.parametrize(
  ('backbone', 'parameters', 'giga_macs'),
  [
    ('r18', 39_761_880, 35.569),
    ('r18-nbt1d', 33_485_784, 30.143),
    ('r34', 59_978_200, 58.219),
    ('r34-nbt1d', 46_983_128, 45.242),
    ('r50', 71_760_832, 65.349),
  ],
)
def test_sizes(backbone, parameters, giga_macs):
  model, variables, example = _published(backbone)
  assert _parameters(variables) == parameters
  assert _parameters({'params': variables['params']['gate']}) == 27_288

  def run(variables, x):
    return model.apply(variables, x, train=False, hparams=SOFT).logits

  macs = cost.thop_macs(run, variables, example, norm_ops=0)
  assert round(macs / 1e9, 3) == giga_macs


def test_size_of_one_modality():
  network = ESANet({'rgb': ResNet(*BACKBONES['r34-nbt1d'])}, 40)
  x = {'rgb': jax.ShapeDtypeStruct((1, 480, 640, 3), jnp.float32)}
  variables = jax.eval_shape(
    lambda x: network.init(jax.random.key(0), x, train=False, hparams={}), x
  )
  assert _parameters(variables) == 32_129_856


# Giga-MACs of the depth stem and its first k stages, and of the whole network, as they
# stand in the released code. Its totals are of a narrower decoder than it trains.
PUBLISHED = {
  'r34-nbt1d': (
    'add',
    (0.2506752, 3.1113216, 6.9470208, 12.66432, 15.538944),
    (22.37101509, 25.23166149, 29.06736069, 34.78465989, 37.65928389),
  ),
  'r50': (
    'se_add',
    (0.2506752, 4.39420573, 10.72382115, 19.71582947, 24.679084),
    (32.5854654, 36.728995928, 43.058611352, 52.050619672, 57.0138742),
  ),
}


@pytest.mark.parametrize('backbone', PUBLISHED)
def test_costs_of_exits_are_those_of_the_released_code(backbone):
  fusion, depth, total = PUBLISHED[backbone]
  model, variables, example = _published(backbone, fusion=fusion, widths=(128,) * 3)

  # The profiler also counts pooling: a sum and a division per cell.
  width = model.network.encoders['rgb'].stage_features[-1]
  pools = sum(width * bins**2 * (300 // bins**2 + 1) for bins in (1, 5))
  counts = [
    cost.thop_macs(_follow(model, path), variables, example, bias_ops=1) + pools
    for path in model.paths
  ]
  np.testing.assert_allclose(np.array(counts) / 1e9, total, rtol=0, atol=6e-9)
  stem = 64 * 240 * 320 * (7 * 7 + 2)
  skipped = (np.array(counts) - counts[0] + stem) / 1e9
  np.testing.assert_allclose(skipped, depth, rtol=0, atol=6e-9)


@pytest.mark.parametrize(
  ('backbone', 'totals', 'saving'),
  [('r34-nbt1d', (30.055, 45.344), 0.337), ('r50', (41.133, 65.561), 0.373)],
)
def test_costs_of_the_network_that_is_trained(backbone, totals, saving):
  model, variables, example = _published(backbone)
  gate = 117_545_392
  counts = [
    cost.thop_macs(_follow(model, path), variables, example, bias_ops=1) - gate
    for path in ('exit_0', 'exit_4')
  ]
  assert tuple(np.round(np.array(counts) / 1e9, 3)) == totals
  assert round(1 - counts[0] / counts[1], 3) == saving


def test_products_that_the_program_holds():
  """Those of convolutions; but ours upsamples without products, and pools with them."""
  model, (_, height, width, _) = _model(), _images()['rgb'].shape
  maps = [(8, 16), (6, 8), (4, 4), (CLASSES, 2), (CLASSES, 1)]
  upsampled = sum(9 * c * height // scale * width // scale for c, scale in maps)
  rows, columns, channels = height // 32, width // 32, 8
  pooled = sum(channels * bins * columns * (rows + bins) for bins in (1, 5))
  for path in model.paths:
    run = _follow(model, path)
    example = jax.tree.map(lambda x: x[:1], _images())
    convolutions = cost.thop_macs(run, _variables(), example, norm_ops=0)
    macs = cost.count_macs(run, _variables(), example)
    assert macs == convolutions - upsampled + pooled, path
