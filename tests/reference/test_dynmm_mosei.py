"""DynMM on CMU-MOSEI: the transformer, the text expert, the late-fusion expert."""

import jax.numpy as jnp
import numpy as np
import pytest

from jdyn.fusions.concat import Concat
from tests.reference import convert
from tests.reference.losses import absolute_error

pytestmark = pytest.mark.usefixtures('compile_fast')


def test_transformer(load):
  reference = load('dynmm_mosei_transformer')

  def last(weights, x):
    module, variables = convert.transformer(weights, '')
    return module.apply(variables, x, train=False)

  def run(weights, inputs):
    module, variables = convert.transformer(weights, '', readout='steps')
    steps, state = module.apply(
      variables, inputs['x'], train=False, capture_intermediates=True
    )
    small = {k: v if 'norm' in k else 0.01 * v for k, v in weights.items()}
    read = last(weights, inputs['x'])
    return jnp.sum(read * inputs['cot']), {
      'proj': state['intermediates']['embed']['__call__'][0],
      'steps': steps,
      'last': read,
      'small/last': last(small, inputs['x']),  # shows the epsilon of LayerNorm
    }

  reference.check_loss('cot', run)
  reference.finish()


def test_text_expert(load):
  reference = load('dynmm_mosei_e1')

  def run(weights, inputs):
    encoder, encoder_variables = convert.transformer(weights, 'text_encoder.')
    head, head_variables = convert.mlp(weights, 'text_head.')
    hidden = encoder.apply(encoder_variables, inputs['text'], train=False)
    prediction = head.apply(head_variables, hidden, train=False)
    loss = absolute_error(prediction, inputs['label'])
    return loss, {'hidden': hidden, 'pred': prediction}

  reference.check_loss('l1', run)
  reference.finish()


def test_late_fusion_expert(load):
  reference = load('dynmm_mosei_e2')

  def run(weights, inputs):
    encoded = {}
    for i, name in enumerate(('vision', 'audio', 'text')):  # The original's order.
      module, variables = convert.transformer(weights, f'encoders.{i}.')
      encoded[name] = module.apply(variables, inputs[name], train=False)
    widths = {name: value.shape[1] for name, value in encoded.items()}
    fused = Concat().apply({}, encoded, train=False).value
    head, head_variables = convert.mlp(
      convert.sorted_inputs(weights, 'head.fc', widths), 'head.'
    )
    prediction = head.apply(head_variables, fused, train=False)
    return absolute_error(prediction, inputs['label']), {
      **{f'enc{i}': value for i, value in enumerate(encoded.values())},
      'fused': fused[:, np.argsort(convert.sorted_columns(widths))],
      'pred': prediction,
    }

  reference.check_loss('l1', run)
  reference.finish()
