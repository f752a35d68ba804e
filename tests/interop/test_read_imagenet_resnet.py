"""ImageNet weights become an encoder, for images of three channels or of one."""

import functools

import jax
import numpy as np
import pytest

from jdyn.data.dataset import DataError
from jdyn.encoders.resnet import ResNet
from jdyn.interop import imagenet_resnet
from tests.interop import torch_files
from tests.interop.released_esanet import Released

BLOCKS = ('basic', 'bottleneck', 'non_bottleneck_1d')
CLASSES = 4


def _released(block, **options):
  return Released(block, **{'blocks': (2, 1, 1, 1), 'planes': (8, 8, 16, 8)} | options)


def _classifier(released, prefix=''):
  """Tensors by their names: of torchvision, or with a prefix of ESANet."""
  rng = np.random.default_rng(0)
  width = released.features[-1]
  shapes = dict(released.encoder(prefix, 3))
  shapes |= {'fc.weight': (CLASSES, width), 'fc.bias': (CLASSES,)}
  return {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}


@functools.cache
def _template(released, channels):
  model = ResNet(released.block, released.blocks, released.planes)
  image = np.zeros((1, 32, 32, channels), np.float32)
  return jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))


def _read(path, tensors, released, channels=3, **options):
  path = torch_files.save(path / 'r34.pth', tensors, **options)
  return imagenet_resnet.read(path, _template(released, channels))


@pytest.mark.parametrize('block', BLOCKS)
def test_the_encoder_is_all_but_the_classifier(tmp_path, block):
  released = _released(block)
  tensors = _classifier(released)
  got = _read(tmp_path, tensors, released)
  like = _template(released, 3)
  jax.tree.map(lambda x, y: np.testing.assert_equal(np.shape(x), y.shape), got, like)

  def total(values):
    return sum(np.sum(x, dtype=np.float64) for x in values)

  used = [x for name, x in tensors.items() if name[:3] != 'fc.' and x.shape]
  assert len(jax.tree.leaves(got)) == len(used)
  np.testing.assert_allclose(total(jax.tree.leaves(got)), total(used), rtol=1e-9)
  params, stages = got['params'], got['batch_stats']
  np.testing.assert_array_equal(
    params['first']['conv']['kernel'], tensors['conv1.weight'].transpose(2, 3, 1, 0)
  )
  np.testing.assert_array_equal(
    params['stages_2']['block_0']['shortcut']['norm']['scale'],
    tensors['layer3.0.downsample.1.weight'],
  )
  first = stages['stages_0']['block_1']
  norm = first['norm_0'] if block == BLOCKS[-1] else first['layer_0']['norm']
  np.testing.assert_array_equal(norm['var'], tensors['layer1.1.bn1.running_var'])


def test_the_checkpoints_of_esanet(tmp_path):
  released = _released(BLOCKS[-1])
  tensors = _classifier(released, 'encoder.')
  got = _read(tmp_path, tensors, released, training=True, old=True)
  np.testing.assert_array_equal(
    got['params']['stages_3']['block_0']['conv_3x1_1']['kernel'],
    tensors['encoder.layer4.0.conv3x1_2.weight'].transpose(2, 3, 1, 0),
  )


@pytest.mark.parametrize('block', BLOCKS)
def test_a_gray_image_is_a_colored_one_of_equal_channels(tmp_path, block):
  released = _released(block)
  tensors = _classifier(released)
  got = _read(tmp_path, tensors, released, channels=1)
  kernel = got['params']['first']['conv']['kernel']
  assert kernel.shape == (7, 7, 1, 8)
  x = np.random.default_rng(1).standard_normal((7, 7), np.float32)
  want = np.einsum('ocij,ij->o', tensors['conv1.weight'], x)
  np.testing.assert_allclose(np.einsum('ijco,ij->o', kernel, x), want, rtol=1e-4)


def _with(name, *shape):
  return lambda tensors: tensors.update({name: np.zeros(shape, np.float32)})


def _mixed(tensors):
  tensors['encoder.conv1.weight'] = tensors.pop('conv1.weight')


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (_with('layer1.2.conv1.weight', 8, 8, 3, 3), 'only the file has layer1.2.conv1'),
    (lambda tensors: tensors.pop('bn1.bias'), "only the config's model has bn1.bias"),
    (_with('conv1.weight', 8, 4, 7, 7), r'\[8, 4, 7, 7\] and not \[8, 3, 7, 7\]'),
    (_with('conv1.weight', 8), r'conv1\.weight is \[8\] and not \[8, 3, 7, 7\]'),
    (_mixed, r'only the file has encoder\.conv1\.weight'),
    (lambda tensors: tensors.clear(), r'has bn1\.bias, .* and \d+ more'),
  ],
)
def test_what_does_not_fit_is_named(tmp_path, change, message, channels):
  released = _released('basic')
  tensors = _classifier(released)
  change(tensors)
  with pytest.raises(DataError, match=rf'r34\.pth:? .*{message}'):
    _read(tmp_path, tensors, released, channels)


def test_four_channels_have_no_weights(tmp_path):
  released = _released('basic')
  with pytest.raises(DataError, match=r'\[8, 3, 7, 7\] and not \[8, 4, 7, 7\]'):
    _read(tmp_path, _classifier(released), released, channels=4)
