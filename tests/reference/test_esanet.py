"""ESANet: blocks of the encoders, fusion, pyramid pooling, decoder, and the loss."""

import jax
import jax.numpy as jnp
import pytest

from jdyn.encoders.resnet import ResNet
from jdyn.layers.activation import activation
from jdyn.layers.pyramid_pooling import PyramidPooling
from jdyn.layers.residual_blocks import BasicBlock, Bottleneck, NonBottleneck1D
from jdyn.layers.segmentation_decoder import DecoderModule, SegmentationDecoder
from jdyn.layers.squeeze_excite import SqueezeExciteAdd
from jdyn.layers.upsample import Upsample
from jdyn.ops.pixel_loss import pixel_loss
from jdyn.ops.pooling import max_pool
from jdyn.typing import weighted_mean
from tests.reference import esanet
from tests.reference.esanet import first, last

pytestmark = pytest.mark.usefixtures('compile_fast')

MODES = {'eval': False, 'train': True}
COUNTERS = {'out/train/state/*.num_batches_tracked': 'our BatchNorm has no counter'}


def check(reference, forward, modes=('eval', 'train')):
  """Compares `forward(weights, inputs, train) -> (outputs, state)`, and gradients.

  Its outputs are channels first; `state` has the statistics after a training pass.
  """

  def run(weights, inputs):
    losses, found = {}, {}
    for mode in modes:
      outputs, state = forward(weights, inputs, train=MODES[mode])
      losses[mode] = esanet.projected(
        {k: v for k, v in outputs.items() if f'cot_{k}' in inputs}, inputs
      )
      found |= {f'{mode}/{k}': v for k, v in (outputs | state).items()}
    return losses, found

  reference.check_losses(run)
  reference.finish(COUNTERS)


BLOCKS = {
  'basicblock': BasicBlock,
  'bottleneck': Bottleneck,
  'nbt1d': NonBottleneck1D,
}


@pytest.mark.parametrize('name', BLOCKS)
def test_residual_blocks(load, name):
  reference = load(f'esanet_{name}')
  size = reference.meta['constructor']

  def forward(weights, inputs, train):
    outputs, state = {}, {}
    for part, x, features, stride in (
      ('plain', 'x', size['C'], 1),
      ('down', 'xd', size['Cout'], size['stride']),
    ):
      block = BLOCKS[name](features, stride)
      y, new = esanet.run(block, weights, f'{part}.', last(inputs[x]), train=train)
      outputs[part], state = first(y), state | new
    return outputs, state

  check(reference, forward)


def test_activations(load):
  reference = load('esanet_activations')

  def forward(weights, inputs, train):
    outputs = {}
    for name in ('swish', 'hswish'):
      outputs[name] = activation(name)(inputs['v'])
      block = NonBottleneck1D(inputs['x'].shape[1], activation=name)
      y, _ = esanet.run(block, weights, f'nbt_{name}.', last(inputs['x']), train=train)
      outputs[f'nbt_{name}'] = first(y)
    return outputs, {}

  check(reference, forward, ['eval'])


def test_stem(load):
  reference = load('esanet_stem')
  (width, *_) = reference.meta['state_dict']['conv1.weight']

  class Stem(ResNet):
    """The stem as a module of its own."""

    def __call__(self, x, *, train):
      return self.stem(x, train=train)

  def forward(weights, inputs, train):
    stem = Stem('basic', (1,), (width,))
    y, state = esanet.run(stem, weights, '', last(inputs['x']), train=train)
    return {'stem': first(y), 'pool': first(max_pool(y))}, state

  check(reference, forward)


def test_se_add(load):
  reference = load('esanet_se_add')

  def forward(weights, inputs, train):
    maps = [last(inputs[name]) for name in ('rgb', 'depth')]
    fusion = SqueezeExciteAdd()
    variables, _ = esanet.bind(fusion, weights, '', *maps)
    y, state = fusion.apply(variables, *maps, capture_intermediates=True)
    parts = state['intermediates']
    (rgb,), (depth,) = parts['main']['__call__'], parts['side']['__call__']
    return {'fused': first(y), 'rgb': first(rgb), 'depth': first(depth)}, {}

  check(reference, forward, ['eval'])


@pytest.mark.parametrize('name', ['ppm', 'appm'])
def test_pyramid_pooling(load, name):
  reference = load(f'esanet_{name}')
  size = reference.meta['constructor']
  trained = tuple(size['input_size']) if name == 'appm' else None
  modules = {
    name: PyramidPooling(size['cout'], (1, 5), 'nearest', trained),
    f'{name}1248': PyramidPooling(size['cout'], (1, 2, 4, 8), 'bilinear', trained),
  }

  def forward(weights, inputs, train):
    outputs, state = {}, {}
    for part, module in modules.items():
      for case in 'a' if train else 'as':
        x = last(inputs[f'x{case}'])
        y, new = esanet.run(module, weights, f'{part}.', x, train=train)
        outputs[f'{part}_{case}'], state = first(y), state | new
    return outputs, state

  check(reference, forward)


def test_upsampling(load):
  reference = load('esanet_upsample')

  def forward(weights, inputs, train):
    x, outputs = last(inputs['x']), {}
    for name, mode in (
      ('zeropad', 'learned-3x3-zeropad'),
      ('replicate', 'learned-3x3'),
    ):
      module = Upsample(mode)
      variables, _ = esanet.bind(module, weights, f'{name}.', x)
      initial = module.init(jax.random.key(0), x)
      outputs[name] = module.apply(variables, x)
      outputs[f'init_{name}'] = module.apply(initial, x)
    for mode in ('bilinear', 'nearest'):
      outputs[mode] = Upsample(mode).apply({}, x)
    return {name: first(y) for name, y in outputs.items()}, {}

  check(reference, forward, ['eval'])


def test_decoder_module(load):
  reference = load('esanet_decoder_module')
  size = reference.meta['constructor']
  modes = {
    'zp': 'learned-3x3-zeropad',
    'rep': 'learned-3x3',
    'nofuse': 'bilinear',
  }

  def forward(weights, inputs, train):
    outputs, state = {}, {}
    x, skip = last(inputs['x']), last(inputs['skip'])
    for name, mode in modes.items():
      module = DecoderModule(
        size['cdec'], size['nr_decoder_blocks'], size['classes'], mode
      )
      maps = x, None if name == 'nofuse' else skip
      (y, side), new = esanet.run(module, weights, f'{name}.', *maps, train=train)
      outputs[name], state = first(y), state | new
      if train:
        outputs[f'{name}_side'] = first(side)
      assert (side is None) != train
    return outputs, state

  check(reference, forward)


def test_decoder(load):
  reference = load('esanet_decoder')
  size = reference.meta['constructor']
  module = SegmentationDecoder(
    size['classes'],
    tuple(size['channels_decoder']),
    tuple(size['nr_decoder_blocks']),
  )

  def forward(weights, inputs, train):
    skips = [last(inputs[f'skip{i}']) for i in (3, 2, 1)]
    (y, sides), state = esanet.run(
      module, weights, '', last(inputs['x']), skips, train=train
    )
    names = ['down32', 'down16', 'down8'] if train else []
    outputs = dict(zip(names, map(first, sides), strict=True))
    return {'full': first(y), **outputs}, state

  check(reference, forward)


def test_loss(load):
  reference = load('esanet_ce_loss')

  def mean(inputs, scale, class_weights=None):
    logits = last(inputs[f'logits{scale}'])
    return weighted_mean(
      *pixel_loss(logits, inputs[f'label{scale}'].astype(int), class_weights)
    )

  def run(_, inputs):
    weights = inputs['class_weights']
    scales = [mean(inputs, scale, weights) for scale in range(3)]
    losses = jnp.stack([scale.compute() for scale in scales])
    plain = mean(inputs, 0) + mean(inputs, 1)
    total = (scales[0] + scales[1]).total
    return losses.sum(), {
      'per_scale': losses,
      'valid_weighted': total / inputs['weighted_pixel_sum'],
      'valid_unweighted': plain.compute(),
    }

  reference.check_loss('total', run)
  reference.finish()
