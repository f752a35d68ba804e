"""DynMM on MM-IMDB: the text expert, the late-fusion expert, early fusion."""

import numpy as np
import pytest

from jdyn.fusions.concat import Concat
from jdyn.layers.join import join
from tests.reference import convert, loader
from tests.reference.losses import binary_cross_entropy


def test_text_expert(load):
  reference = load('dynmm_imdb_e1')

  def run(weights, inputs):
    encoder, encoder_variables = convert.mlp(weights, 'text_encoder.')
    head, head_variables = convert.mlp(weights, 'text_head.')
    hidden = encoder.apply(encoder_variables, inputs['text'], train=False)
    logits = head.apply(head_variables, hidden, train=False)
    loss = binary_cross_entropy(logits, inputs['labels'])
    return loss, {'hidden': hidden, 'logits': logits}

  reference.check_loss('bce', run)
  reference.finish()


@pytest.mark.parametrize('train', [False, True])
def test_late_fusion_expert(load, train):
  reference = load('dynmm_imdb_e2_train' if train else 'dynmm_imdb_e2_eval')

  def run(weights, inputs):
    encoded, outputs = {}, {}
    for i, name in enumerate(('text', 'image')):  # The original's order.
      module, variables = convert.maxout_mlp(weights, f'encoders.{i}.')
      encoded[name], state = module.apply(
        variables, inputs[name], train=train, mutable=['batch_stats']
      )
      outputs[f'enc_{name}'] = encoded[name]
      for key, ours in convert.MAXOUT_NORMS.items():
        stats = state['batch_stats'][ours]
        outputs |= convert.state(f'encoders.{i}.{key}', stats) if train else {}
    widths = {name: value.shape[1] for name, value in encoded.items()}
    fused = Concat().apply({}, encoded, train=train).value
    head, head_variables = convert.mlp(
      convert.sorted_inputs(weights, 'head.fc', widths), 'head.'
    )
    logits = head.apply(head_variables, fused, train=train)
    outputs['fused'] = fused[:, np.argsort(convert.sorted_columns(widths))]
    outputs['logits'] = logits
    return binary_cross_entropy(logits, inputs['labels']), outputs

  reference.check_loss('bce', run)
  reference.finish(loader.NO_COUNTER)


def test_early_fusion(load):
  reference = load('dynmm_imdb_ef')

  def run(weights, inputs):
    widths = {name: inputs[name].shape[1] for name in ('text', 'image')}
    columns = convert.sorted_columns(widths)
    weights = convert.sorted_inputs(weights, 'op1.lin', widths)
    for kind in ('weight', 'bias', 'running_mean', 'running_var'):
      weights[f'op0.{kind}'] = weights[f'op0.{kind}'][columns]
    module, variables = convert.maxout_mlp(weights, '')
    logits = module.apply(variables, join(inputs, ('text', 'image')), train=False)
    return binary_cross_entropy(logits, inputs['labels']), {'logits': logits}

  reference.check_loss('bce', run)
  reference.finish()
