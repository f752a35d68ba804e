"""Torch state dicts of the original models to our modules and variables.

Each function reads the tensors under `prefix` (with its trailing dot) and gives
a module of the same sizes and its variables. Only reshapes, transposes and
slices are used, so that a gradient passes through to the torch tensors.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jdyn.encoders.gru import GRU
from jdyn.encoders.lenet import LeNet
from jdyn.encoders.maxout_mlp import MaxOutMLP
from jdyn.encoders.mlp import MLP
from jdyn.layers.transformer import Transformer

Weights = Mapping[str, Any]

MAXOUT_NORMS = {'op0': 'input_norm', 'op2.0': 'norm_0', 'op4.0': 'norm_1'}
"""Our name of each BatchNorm of `MaxOut_MLP`."""


def count(weights: Weights, pattern: str) -> int:
  """How many different numbers stand where `pattern` has its only group."""
  return len({m.group(1) for key in weights if (m := re.match(pattern, key))})


def dense(weights: Weights, key: str) -> dict[str, Any]:
  """Parameters of a Linear or of a Conv1d with kernel size 1."""
  kernel = weights[f'{key}.weight']
  params = {'kernel': kernel.reshape(kernel.shape[:2]).T}
  if f'{key}.bias' in weights:
    params['bias'] = weights[f'{key}.bias']
  return params


def norm(weights: Weights, key: str) -> dict[str, Any]:
  """Parameters of a LayerNorm or BatchNorm."""
  return {'scale': weights[f'{key}.weight'], 'bias': weights[f'{key}.bias']}


def statistics(weights: Weights, key: str) -> dict[str, Any]:
  """Running statistics of a BatchNorm."""
  return {'mean': weights[f'{key}.running_mean'], 'var': weights[f'{key}.running_var']}


def state(key: str, stats: Mapping[str, Any]) -> dict[str, Any]:
  """Running statistics as the outputs that a reference file stores."""
  return {
    f'state/{key}.running_mean': stats['mean'],
    f'state/{key}.running_var': stats['var'],
  }


def mlp(weights: Weights, prefix: str) -> tuple[MLP, dict[str, Any]]:
  """`MLP` (`fc`, `fc2`), `Linear` (`fc`) and every longer chain of that naming."""
  names = ['fc', *(f'fc{i}' for i in range(2, 9))]
  layers = [
    dense(weights, prefix + name)
    for name in names
    if f'{prefix}{name}.weight' in weights
  ]
  *hidden, features = (layer['kernel'].shape[1] for layer in layers)
  params = {f'dense_{i}': layer for i, layer in enumerate(layers)}
  return MLP(features, tuple(hidden)), {'params': params}


def maxout_mlp(weights: Weights, prefix: str) -> tuple[MaxOutMLP, dict[str, Any]]:
  """`MaxOut_MLP`, without dropout."""
  params = {ours: norm(weights, prefix + key) for key, ours in MAXOUT_NORMS.items()}
  stats = {
    ours: statistics(weights, prefix + key) for key, ours in MAXOUT_NORMS.items()
  }
  for i, key in enumerate(('op1', 'op3')):
    params[f'maxout_{i}'] = {'dense': dense(weights, f'{prefix}{key}.lin')}
  features = 0
  if f'{prefix}hid2val.weight' in weights:
    params['out'] = dense(weights, f'{prefix}hid2val')
    features = params['out']['bias'].shape[0]
  hidden = tuple(params[f'norm_{i}']['scale'].shape[0] for i in range(2))
  variables = {'params': params, 'batch_stats': stats}
  return MaxOutMLP(hidden, features, dropout=0.0), variables


def lenet(weights: Weights, prefix: str) -> tuple[LeNet, dict[str, Any]]:
  """`LeNet`; its images are NHWC here."""
  params, stats = {}, {}
  blocks = count(weights, re.escape(prefix) + r'convs\.(\d+)\.')
  for i in range(blocks):
    params[f'block_{i}'] = {
      'conv': {'kernel': weights[f'{prefix}convs.{i}.weight'].transpose(2, 3, 1, 0)},
      'norm': norm(weights, f'{prefix}bns.{i}'),
    }
    stats[f'block_{i}'] = {'norm': statistics(weights, f'{prefix}bns.{i}')}
  channels = params['block_0']['norm']['scale'].shape[0]
  return LeNet(channels, blocks - 1), {'params': params, 'batch_stats': stats}


def gru(weights: Weights, prefix: str, **options) -> tuple[GRU, dict[str, Any]]:
  """`GRU` and `GRUWithLinear` (`gru`, and `linear` if it is there)."""
  params = {
    'input': {
      'kernel': weights[f'{prefix}gru.weight_ih_l0'].T,
      'bias': weights[f'{prefix}gru.bias_ih_l0'],
    },
    'recurrent_kernel': weights[f'{prefix}gru.weight_hh_l0'].T,
    'recurrent_bias': weights[f'{prefix}gru.bias_hh_l0'],
  }
  project = 0
  if f'{prefix}linear.weight' in weights:
    params['out'] = dense(weights, f'{prefix}linear')
    project = params['out']['bias'].shape[0]
  features = params['recurrent_kernel'].shape[0]
  return GRU(features, project=project, **options), {'params': params}


def attention(weights: Weights, key: str) -> dict[str, Any]:
  """Parameters of a `torch.nn.MultiheadAttention`."""
  kernel = weights[f'{key}.in_proj_weight'].T
  bias = weights[f'{key}.in_proj_bias']
  width = kernel.shape[0]
  return {
    'query': {'kernel': kernel[:, :width], 'bias': bias[:width]},
    'key_value': {'kernel': kernel[:, width:], 'bias': bias[width:]},
    'out': dense(weights, f'{key}.out_proj'),
  }


def transformer(
  weights: Weights, prefix: str, heads: int = 5, **options
) -> tuple[Transformer, dict[str, Any]]:
  """`Transformer` (`conv`, `transformer.layers`); `heads` are not in the tensors."""
  params = {'embed': dense(weights, f'{prefix}conv')}
  blocks = count(weights, re.escape(prefix) + r'transformer\.layers\.(\d+)\.')
  for i in range(blocks):
    layer = f'{prefix}transformer.layers.{i}'
    params[f'block_{i}'] = {
      'attention': attention(weights, f'{layer}.self_attn'),
      'norm_0': norm(weights, f'{layer}.norm1'),
      'norm_1': norm(weights, f'{layer}.norm2'),
      'dense_0': dense(weights, f'{layer}.linear1'),
      'dense_1': dense(weights, f'{layer}.linear2'),
    }
  feedforward, features = params['block_0']['dense_1']['kernel'].shape
  module = Transformer(features, blocks, heads, feedforward, **options)
  return module, {'params': params}


def sorted_columns(widths: Mapping[str, int]) -> np.ndarray:
  """Where the columns of a concatenation in sorted order stand in the original.

  Args:
    widths: of each modality, in the original's order.

  Returns:
    Indices such that `original[..., indices]` is in sorted order.
  """
  ends = dict(zip(widths, np.cumsum(list(widths.values())), strict=True))
  return np.concatenate(
    [np.arange(ends[name] - widths[name], ends[name]) for name in sorted(widths)]
  )


def sorted_inputs(weights: Weights, key: str, widths: Mapping[str, int]) -> Weights:
  """The weights, with the inputs of one Linear in sorted order of modalities."""
  kernel = jnp.asarray(weights[f'{key}.weight'])
  return {**weights, f'{key}.weight': kernel[:, sorted_columns(widths)]}
