"""The modules of ESANet with the original's tensors, in its layout of images."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jdyn.cost import expected_macs
from jdyn.encoders.identity import Identity
from jdyn.encoders.resnet import ResNet
from jdyn.encoders.strided_conv import StridedConv
from jdyn.gates.learned import LearnedGate
from jdyn.interop import esanet
from jdyn.interop.state_dict import take
from jdyn.models.esanet import ESANet
from jdyn.models.gated_stages import GatedStages
from tests.reference import convert

BLOCKS = {
  'non_bottleneck_1d': 'conv3x1_1.weight',
  'bottleneck': 'conv3.weight',
  'basic': 'conv2.weight',
}
"""A tensor that every kind of block has, and those before it in this dict do not."""


def last(x):
  """`[B, C, H, W]` to `[B, H, W, C]`."""
  return x.transpose(0, 2, 3, 1)


def first(x):
  """`[B, H, W, C]` to `[B, C, H, W]`."""
  return x.transpose(0, 3, 1, 2)


def bind(module, weights, prefix, *args, **options):
  """Variables of a module, and the names of its running statistics' tensors.

  Args:
    module: of our own.
    weights: the original's tensors.
    prefix: of the names of those that belong to the module, with its dot.
    args: of the module's call, for shapes.
    options: of the module's call.
  """
  template = jax.eval_shape(lambda: module.init(jax.random.key(0), *args, **options))
  pools = any(re.search(r'features\.0\.1\.', key) for key in weights)
  names = {
    place: prefix + esanet.tensor_name(place[1:], pools=pools)
    for place in flatten_dict(template)
  }
  own = {key for key in weights if key.startswith(prefix)}
  used = set(names.values())
  counters = {key for key in own if key.endswith('num_batches_tracked')}
  assert used == own - counters, used ^ (own - counters)
  assert len(used) == len(names)
  variables = take(weights, {name: place for place, name in names.items()}, template)
  return variables, {p: name for p, name in names.items() if p[0] == 'batch_stats'}


def run(module, weights, prefix, *args, train, **options):
  """Output of a module on channels-last inputs, and new statistics by their names."""
  variables, statistics = bind(module, weights, prefix, *args, train=train, **options)
  y, state = module.apply(
    variables, *args, train=train, mutable=['batch_stats'], **options
  )
  new = flatten_dict(dict(state)) if train else {}
  return y, {f'state/{statistics[place]}': value for place, value in new.items()}


def projected(outputs, inputs):
  """The loss of these references: outputs times `cot_<name>`, summed."""
  return sum(jnp.sum(y * inputs[f'cot_{name}']) for name, y in outputs.items())


def gated_stages(weights):
  """DynMM's network of the same sizes as the original's tensors."""

  def encoder(name):
    stages = [f'{name}.layer{i}.' for i in range(1, 5)]
    kind = next(k for k, key in BLOCKS.items() if f'{stages[0]}0.{key}' in weights)
    return ResNet(
      kind,
      tuple(convert.count(weights, re.escape(stage) + r'(\d+)\.') for stage in stages),
      tuple(len(weights[f'{stage}0.bn1.weight']) for stage in stages),
    )

  modules = [f'decoder.decoder_module_{i}.' for i in range(1, 4)]
  network = ESANet(
    {'rgb': encoder('encoder_rgb'), 'depth': encoder('encoder_depth')},
    len(weights['decoder.conv_out.bias']),
    widths=tuple(len(weights[f'{module}conv3x3.bn.bias']) for module in modules),
    blocks=tuple(
      convert.count(weights, re.escape(module) + r'decoder_blocks\.(\d+)\.')
      for module in modules
    ),
  )
  return GatedStages(network, gate(weights, 'gate_layer.'))


def gate(weights, prefix):
  """DynMM's gate on the maps of both stems."""
  widths = tuple(len(weights[f'{prefix}conv.{i}.bias']) for i in (0, 3))
  return LearnedGate(
    StridedConv(len(weights[f'{prefix}fc.weight']), widths), Identity()
  )


def hparams(temperature, hard):
  """What a gate is told by a schedule."""
  return {'gate_temperature': temperature, 'gate_hard': hard}


def resource(weights, costs):
  """DynMM's resource loss: a mean over exits where the expectation is a sum."""
  costs = jnp.asarray(np.asarray(costs, np.float32))
  return jnp.mean(expected_macs(weights, costs)) / len(costs)
