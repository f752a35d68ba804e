"""MM-Dynamics: the released model and objective, and the objective of DEQ fusion."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from configs import base
from jdyn import build
from jdyn.data.dataset import DataSpec, ModalitySpec
from jdyn.interop import mm_dynamics
from jdyn.training.step import weight_key


def _names(meta):
  """Names of the views in their order, which is not that of the alphabet."""
  count = len(meta['constructor']['in_dim'])
  return [f'view_{count - i}' for i in range(count)]


def _released(config, names):
  """L = CE; then L += mean gate + squared error + CE of every view."""
  del config, names


def _compounding(config, names):
  """The same with L = 1.5 * L before every view."""
  count = len(names)
  config.loss.supervised = 1.5**count
  factors = {name: 1.5 ** (count - 1 - i) for i, name in enumerate(names)}
  config.loss.expert_weights.update(factors)


def _stage(meta, change):
  """The model and objective, from a config."""
  names, size = _names(meta), meta['constructor']
  classes = size['classes']
  model = base.feature_fusion(
    {name: base.encoder('identity') for name in names},
    base.fusion('mm_dynamics', features=size['hidden_dim'][0]),
    base.encoder('mlp'),
  )
  config = base.run(base.data('rosmap'), base.stage(model))
  config.loss.update(dict(per_expert=1.0, informativeness=1.0, confidence=1.0))
  config.loss.confidence_target = 'compat'
  change(config, names)
  modalities = {
    name: ModalitySpec((width,))
    for name, width in zip(names, size['in_dim'], strict=True)
  }
  spec = DataSpec('omics', 'multiclass', modalities, classes, ('',) * classes)
  return build.stage(config, spec)


@pytest.mark.parametrize(
  ('name', 'change'),
  [('mmdynamics_mmd', _released), ('mmdynamics_deqloss_concat', _compounding)],
)
def test_model_and_objective(load, name, change):
  reference = load(name)
  stage, names = _stage(reference.meta, change), _names(reference.meta)
  weights_of = {key: float(value(0)) for key, value in stage.make_schedules(1).items()}
  hparams = {'gate_temperature': 1.0, 'gate_hard': True}

  def run(weights, inputs):
    views = {view: inputs[f'x{i}'] for i, view in enumerate(names)}
    options = dict(train=False, hparams=hparams)
    key = jax.random.key(0)
    shapes = jax.eval_shape(lambda: stage.model.init(key, views, **options))
    params = mm_dynamics.params(Path('reference'), weights, shapes['params'], names)
    outputs, state = stage.model.apply(
      {'params': params}, views, capture_intermediates=True, **options
    )
    batch = {'label': inputs['label'], 'mask': jnp.ones(len(inputs['label']))}
    loss = sum(
      weights_of[weight_key(name)]
      * term.apply(outputs, batch, hparams, (), None)[0].compute()
      for name, term in stage.terms.items()
    )
    found = {'logits': outputs.logits, 'infer_logits': outputs.logits}
    features = jnp.split(outputs.hidden, len(names), axis=1)  # In sorted order.
    layers = state['intermediates']['fusion']
    for i, view in enumerate(names):
      found[f'gate{i}'] = jax.nn.sigmoid(layers[f'gate_{view}']['__call__'][0])
      found[f'tcp_logit{i}'] = outputs.unimodal[view]
      found[f'confidence{i}'] = outputs.weights[view][:, None]
      found[f'feature{i}'] = features[sorted(names).index(view)]
    return loss, found

  reference.check_loss('total', run)
  reference.finish()
