"""ESANet's and DynMM's checkpoints find their places, name by name and size by size.

What the networks compute with them is tested in tests/reference.
"""

import dataclasses
import functools
import math

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jdyn.data.dataset import DataError
from jdyn.encoders.identity import Identity
from jdyn.encoders.resnet import ResNet
from jdyn.encoders.strided_conv import StridedConv
from jdyn.gates.learned import LearnedGate
from jdyn.interop import CONVERTERS, esanet
from jdyn.models.esanet import ESANet
from jdyn.models.gated_stages import GatedStages
from tests.interop import torch_files
from tests.interop.released_esanet import Released

RGB = (('rgb', 3),)
RELEASED = {
  'gated': Released(),
  'static': Released(block='basic', gate=False, pools=False, bins=4, learned=False),
  'add': Released(
    block='bottleneck', planes=(16, 8, 8, 8), decoder=(24, 32, 64), se=False
  ),
  'one modality': Released(modalities=RGB, gate=False, decoder_blocks=(2, 1, 0)),
}
FULL = Released(
  blocks=(3, 4, 6, 3),
  planes=(64, 128, 256, 512),
  decoder=(512, 256, 128),
  decoder_blocks=(3, 3, 3),
  classes=40,
)


@functools.cache
def _template(released: Released):
  """Shapes of our variables of the same sizes."""
  network = ESANet(
    {
      name: ResNet(released.block, released.blocks, released.planes)
      for name, _ in released.modalities
    },
    released.classes,
    fusion='se_add' if released.se else 'add',
    bins=tuple(range(1, released.bins + 1)),
    widths=released.decoder,
    blocks=released.decoder_blocks,
    upsampling='learned-3x3' if released.learned else 'bilinear',
  )
  gate = LearnedGate(StridedConv(5), Identity())
  model = GatedStages(network, gate) if released.gate else network
  # At this size a gate has a window.
  images = {name: np.zeros((1, 64, 64, c), 'f4') for name, c in released.modalities}
  hparams = {'gate_temperature': 1.0, 'gate_hard': False}
  return jax.eval_shape(
    lambda: model.init(jax.random.key(0), images, train=False, hparams=hparams)
  )


def _convert(path, tensors, released, **options):
  path = torch_files.save(path / 'ckpt.pth', tensors, **options)
  return CONVERTERS['esanet'].read(path, _template(released))


@pytest.mark.parametrize('old', [False, True], ids=['zip', 'old'])
@pytest.mark.parametrize('training', [False, True], ids=['alone', 'in training'])
@pytest.mark.parametrize('name', RELEASED)
def test_every_tensor_is_read(tmp_path, name, training, old):
  released = RELEASED[name]
  tensors = released.state_dict()
  got = _convert(tmp_path, tensors, released, training=training, old=old)
  jax.tree.map(
    lambda x, like: np.testing.assert_equal(np.shape(x), like.shape),
    got,
    _template(released),
  )

  def numbers(values):
    return np.sort(np.concatenate([np.ravel(x) for x in values]))

  want = numbers(x for x in tensors.values() if x.shape)
  np.testing.assert_array_equal(numbers(jax.tree.leaves(got)), want)


PLACES = {
  'gated': {
    'encoder_rgb.conv1.weight': 'params/network/encoders_rgb/first/conv/kernel',
    'encoder_depth.bn1.running_var': (
      'batch_stats/network/encoders_depth/first/norm/var'
    ),
    'encoder_rgb.layer2.0.conv1x3_1.weight': (
      'params/network/encoders_rgb/stages_1/block_0/conv_1x3_0/kernel'
    ),
    'encoder_depth.layer4.0.bn2.weight': (
      'params/network/encoders_depth/stages_3/block_0/norm_1/scale'
    ),
    'encoder_rgb.layer3.0.downsample.0.weight': (
      'params/network/encoders_rgb/stages_2/block_0/shortcut/conv/kernel'
    ),
    'se_layer0.se_rgb.fc.0.weight': 'params/network/fusions_0/main/squeeze/kernel',
    'se_layer4.se_depth.fc.2.bias': 'params/network/fusions_4/side/excite/bias',
    'skip_layer3.0.conv.weight': 'params/network/skip_layers_2/conv/kernel',
    'context_module.features.1.1.conv.weight': (
      'params/network/context/bin_1/conv/kernel'
    ),
    'context_module.final_conv.bn.running_mean': (
      'batch_stats/network/context/out/norm/mean'
    ),
    'decoder.decoder_module_2.conv3x3.conv.weight': (
      'params/network/decoder/module_1/conv/conv/kernel'
    ),
    'decoder.decoder_module_1.decoder_blocks.0.conv3x1_2.bias': (
      'params/network/decoder/module_0/block_0/conv_3x1_1/bias'
    ),
    'decoder.decoder_module_3.side_output.weight': (
      'params/network/decoder/module_2/side/kernel'
    ),
    'decoder.decoder_module_3.upsample.conv.weight': (
      'params/network/decoder/module_2/upsample/conv/kernel'
    ),
    'decoder.conv_out.weight': 'params/network/decoder/out/kernel',
    'decoder.upsample2.conv.bias': 'params/network/decoder/upsample_1/conv/bias',
    'gate_layer.conv.3.weight': 'params/gate/encoder/conv_1/kernel',
    'gate_layer.conv.1.bias': 'params/gate/encoder/norm_0/bias',
  },
  'static': {
    'encoder_rgb.layer2.0.conv2.weight': (
      'params/encoders_rgb/stages_1/block_0/layer_1/conv/kernel'
    ),
    'context_module.features.3.conv.weight': 'params/context/bin_3/conv/kernel',
  },
  'add': {
    'encoder_depth.layer1.0.bn3.running_mean': (
      'batch_stats/network/encoders_depth/stages_0/block_0/layer_2/norm/mean'
    ),
  },
  'one modality': {
    'encoder.conv1.weight': 'params/encoders_rgb/first/conv/kernel',
    'se_layer3.fc.2.weight': 'params/fusions_3/excite/kernel',
  },
}


@pytest.mark.parametrize('name', PLACES)
def test_tensors_are_in_their_places(tmp_path, name):
  tensors = RELEASED[name].state_dict()
  got = flatten_dict(_convert(tmp_path, tensors, RELEASED[name]), sep='/')
  for theirs, ours in PLACES[name].items():
    want = tensors[theirs]
    want = np.moveaxis(want, (0, 1), (3, 2)) if want.ndim == 4 else want
    np.testing.assert_array_equal(got[ours], want, err_msg=theirs)
  if RELEASED[name].gate:
    want = tensors['gate_layer.fc.weight'][:, :, 0, 0].T
    np.testing.assert_array_equal(got['params/gate/encoder/out/kernel'], want)


def test_without_skip_layers_the_others_keep_their_numbers(tmp_path):
  released = Released(planes=(16, 16, 32, 32), decoder=(32, 8, 16), gate=False)
  tensors = released.state_dict()
  assert 'skip_layer2.0.conv.weight' in tensors
  assert not {'skip_layer1.0.conv.weight', 'skip_layer3.0.conv.weight'} & set(tensors)
  got = _convert(tmp_path, tensors, released)['params']
  assert {key for key in got if key.startswith('skip')} == {'skip_layers_1'}


# Counted in the released code.
@pytest.mark.parametrize(
  ('block', 'count', 'size'),
  [('non_bottleneck_1d', 913, 46_983_128), ('bottleneck', 925, 71_760_832)],
)
def test_the_published_sizes_have_a_place_for_every_tensor(block, count, size):
  released = dataclasses.replace(FULL, block=block)
  shapes = released.shapes()
  assert len(shapes) == count
  tensors = {name: shape for name, shape in shapes.items() if shape}
  template = _template(released)
  found = esanet.places(template)
  assert set(found) == set(tensors)
  ours = flatten_dict(template)
  assert len(found) == len(ours)
  for name, place in found.items():
    assert math.prod(ours[place].shape) == math.prod(tensors[name])
  assert sum(math.prod(x.shape) for x in jax.tree.leaves(template['params'])) == size


def _without(start):
  def change(tensors):
    for name in [name for name in tensors if name.startswith(start)]:
      del tensors[name]

  return change


def _with(name, *shape):
  return lambda tensors: tensors.update({name: np.zeros(shape, np.float32)})


def _many(tensors):
  tensors.update({f'extra{i:02}': np.zeros(1, np.float32) for i in range(13)})


def _both(tensors):
  _with('fc.bias', 5)(tensors)
  tensors.pop('gate_layer.fc.weight')


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (_without('skip_layer1.0.conv'), r'only the config.* has skip_layer1\.0\.conv\.w'),
    (_with('decoder.extra', 3), r'only the file has decoder\.extra'),
    (_both, r'has gate_layer\.fc\.weight; only the file has fc\.bias'),
    (_many, r'extra00, .*, extra09 and 3 more\.'),
    (_without('encoder_rgb.layer3.0.bn1'), r'bias, .*running_mean, .*running_var'),
    (
      _with('encoder_depth.conv1.weight', 16, 3, 7, 7),
      r'encoder_depth\.conv1\.weight is \[16, 3, 7, 7\] and not \[16, 1, 7, 7\]',
    ),
    (_with('gate_layer.fc.weight', 4, 8, 1, 1), r'\[4, 8, 1, 1\] and not \[5, 8\]'),
    (_with('gate_layer0.se.fc.0.weight', 2, 32, 1, 1), "of DynMM's local gates"),
    (_without('gate_layer.'), r"without a gate, .* static model, .*'s `network`"),
    (_with('decoder.conv_out.bias', 13), '13 classes, .* model 3. .*SceneNet'),
  ],
)
def test_what_does_not_fit_is_named(tmp_path, change, message):
  tensors = RELEASED['gated'].state_dict()
  change(tensors)
  with pytest.raises(DataError, match=rf'ckpt\.pth:? .*{message}'):
    _convert(tmp_path, tensors, RELEASED['gated'])


def test_another_network_without_a_gate_is_not_called_static(tmp_path):
  tensors = Released(modalities=RGB, gate=False).state_dict()
  with pytest.raises(DataError, match=r'only the file has encoder\.bn1'):
    _convert(tmp_path, tensors, RELEASED['gated'])


def test_a_gate_is_left_over_by_the_static_network(tmp_path):
  released = dataclasses.replace(RELEASED['gated'], gate=False)
  with pytest.raises(DataError, match=r'only the file has gate_layer\.conv\.0\.bias'):
    _convert(tmp_path, RELEASED['gated'].state_dict(), released)
