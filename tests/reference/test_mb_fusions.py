"""MultiBench: the fusions without attention."""

import jax.numpy as jnp

from jdyn.encoders.mlp import MLP
from jdyn.fusions.concat import Concat
from jdyn.fusions.low_rank import LowRankFusion
from jdyn.fusions.multiplicative import MultiplicativeFusion
from jdyn.fusions.stack import Stack
from jdyn.fusions.tensor import TensorFusion
from jdyn.layers.bilinear import Bilinear
from tests.reference import convert
from tests.reference.losses import square


def _fuse(module, inputs, *names, params=None):
  chosen = {name: inputs[name] for name in names}
  return module.apply({'params': params or {}}, chosen, train=False).value


def test_low_rank(load):
  reference = load('mb_lrtf')
  module = LowRankFusion(
    reference.meta['constructor']['output_dim'], reference.meta['constructor']['rank']
  )

  def run(weights, inputs):
    params = {
      'rank_weights': weights['fusion_weights'].T,
      'bias': weights['fusion_bias'],
    }
    for i in range(len(inputs)):
      factor = weights[f'factors.{i}']  # [rank, 1 + D, features]
      params[f'factor_m{i}'] = factor.transpose(1, 0, 2).reshape(factor.shape[1], -1)
    fused = _fuse(module, inputs, *inputs, params=params)
    pair = _fuse(module, inputs, 'm0', 'm1', params=params)
    return square(fused), {'lrtf': fused, 'lrtf2': pair}

  reference.check_loss('sq', run)
  reference.finish()


def test_tensor_concat_and_stack(load):
  reference = load('mb_tensor_fusion')

  def run_tensor(weights, inputs):
    fused = _fuse(TensorFusion(), inputs, 'm0', 'm1', 'm2')
    return square(fused), {
      'tf3': fused,
      'tf2': _fuse(TensorFusion(), inputs, 'm0', 'm1'),
      'tf_seq': _fuse(TensorFusion(), inputs, 's0', 's1'),
      'concat': _fuse(Concat(), inputs, 'm0', 'm1', 'm2'),
      'concat_seq': _fuse(Concat(), inputs, 's0', 's1'),
      'concat_early': _fuse(Concat(flatten=False), inputs, 's0', 's1'),
      'stack': _fuse(Stack(), inputs, 'e0', 'e1'),
    }

  def run_linear(weights, inputs):
    head, variables = convert.mlp(weights, 'concat_linear.')
    assert head == MLP(reference.meta['constructor']['linear'][1])
    fused = _fuse(Concat(), inputs, 'm0', 'm1', 'm2')
    value = head.apply(variables, fused, train=False)
    return square(value), {'concat_linear': value}

  reference.check_loss('tf3', run_tensor)
  reference.check_loss('lin', run_linear)
  reference.finish()


def _bilinear(weights, prefix):
  """Parameters of a `MultiplicativeInteractions2Modal`, outputs flattened."""
  product = weights[f'{prefix}.W']
  n, m = product.shape[:2]
  return {
    'product': product.reshape(n, m, -1),
    'x_kernel': weights[f'{prefix}.U'].reshape(n, -1),
    'z_kernel': weights[f'{prefix}.V'].reshape(m, -1),
    'bias': weights[f'{prefix}.b'].reshape(1, -1),
  }


def test_multiplicative_matrix(load):
  reference = load('mb_mi')
  width = reference.meta['constructor']['out']

  def run_matrix(weights, inputs):
    params = {'bilinear': _bilinear(weights, 'matrix')}
    module = MultiplicativeFusion('matrix', width)
    value = _fuse(module, inputs, 'm0', 'm1', params=params)
    # In the other order of names, it is `context` that says who generates.
    flipped = {'a': inputs['m1'], 'b': inputs['m0']}
    flip = MultiplicativeFusion('matrix', width, context='b')
    clip = MultiplicativeFusion('matrix', width, clip=(-0.5, 0.5))
    return square(value), {
      'matrix': value,
      'flip': _fuse(flip, flipped, 'a', 'b', params=params),
      'clip': _fuse(clip, inputs, 'm0', 'm1', params=params),
    }

  def run_matrix3d(weights, inputs):
    shape = weights['matrix3D.b'].shape
    params = {'params': _bilinear(weights, 'matrix3D')}
    value = Bilinear(shape[0] * shape[1]).apply(params, inputs['m0'], inputs['m1'])
    value = value.reshape(-1, *shape)
    return square(value), {'matrix3D': value}

  def run_three(weights, inputs):
    params = {
      'trilinear': _bilinear(weights, 'mi3.a'),
      'bilinear': _bilinear(weights, 'mi3.b'),
    }
    module = MultiplicativeFusion('matrix', width)
    value = _fuse(module, inputs, 'm0', 'm1', 'm2', params=params)
    return square(value), {'mi3': value}

  def run_vector(weights, inputs):
    params = {
      'factor': {'kernel': weights['vector.W'], 'bias': weights['vector.V']},
      'shift': {'kernel': weights['vector.U'], 'bias': weights['vector.b']},
    }
    module = MultiplicativeFusion('vector')
    value = _fuse(module, inputs, 'm0', 'm1', params=params)
    return square(value), {'vector': value}

  def run_scalar(weights, inputs):
    params = {
      'factor': {
        'kernel': jnp.asarray(weights['scalar.W'])[:, None],
        'bias': weights['scalar.V'],
      },
      'shift': {
        'kernel': jnp.asarray(weights['scalar.U'])[:, None],
        'bias': weights['scalar.b'],
      },
    }
    module = MultiplicativeFusion('scalar')
    value = _fuse(module, inputs, 'm0', 'm1', params=params)
    return square(value), {'scalar': value}

  reference.check_loss('matrix', run_matrix)
  reference.check_loss('matrix3D', run_matrix3d)
  reference.check_loss('mi3', run_three)
  reference.check_loss('vector', run_vector)
  reference.check_loss('scalar', run_scalar)
  reference.finish()
