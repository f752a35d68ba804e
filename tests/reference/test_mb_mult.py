"""MultiBench: `MULTModel`."""

import dataclasses

import pytest

from jdyn.fusions.mult import MulT
from tests.reference import convert
from tests.reference.losses import square

pytestmark = pytest.mark.usefixtures('compile_fast')


def _stack(weights, prefix):
  """Parameters of one `TransformerEncoder` of MulT."""
  params = {'norm': convert.norm(weights, f'{prefix}.layer_norm')}
  for i in range(_layers(weights, prefix)):
    layer = f'{prefix}.layers.{i}'
    params[f'block_{i}'] = {
      'attention': convert.attention(weights, f'{layer}.self_attn'),
      'norm_0': convert.norm(weights, f'{layer}.layer_norms.0'),
      'norm_1': convert.norm(weights, f'{layer}.layer_norms.1'),
      'dense_0': convert.dense(weights, f'{layer}.fc1'),
      'dense_1': convert.dense(weights, f'{layer}.fc2'),
    }
  return params


def _layers(weights, prefix):
  return convert.count(weights, rf'{prefix}\.layers\.(\d+)\.')


def test_mult(load):
  reference = load('mb_mult')
  options = reference.meta['constructor']
  names = [f'm{i}' for i in range(len(options['n_features']))]

  def variables(weights):
    params = {
      'dense_0': convert.dense(weights, 'proj1'),
      'dense_1': convert.dense(weights, 'proj2'),
      'out': convert.dense(weights, 'out_layer'),
    }
    for i, name in enumerate(names):
      params[f'embed_{name}'] = convert.dense(weights, f'proj.{i}')
      params[f'{name}_memory'] = _stack(weights, f'trans_mems.{i}')
      for j, other in enumerate(names):
        params[f'{name}_from_{other}'] = _stack(weights, f'trans.{i}.{j}')
    return {'params': params}

  module = MulT(
    options['output_dim'],
    width=options['embed_dim'],
    heads=options['num_heads'],
    layers=_layers(reference.weights, 'trans.0.0'),
    memory_layers=_layers(reference.weights, 'trans_mems.0'),
    causal=options['attn_mask'],
  )

  def apply(weights, inputs, **changes):
    changed = dataclasses.replace(module, **changes)
    return changed.apply(variables(weights), inputs, train=False).value

  def run(weights, inputs):
    steps = apply(weights, inputs, readout='steps')
    return square(steps[:, -1]), {'all_steps': steps, 'pred': steps[:, -1]}

  def run_unmasked(weights, inputs):
    return {'nomask': apply(weights, inputs, causal=False)}

  reference.check_loss('sq', run)
  reference.check(run_unmasked)
  reference.finish()
