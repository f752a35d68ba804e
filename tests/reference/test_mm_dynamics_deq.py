"""The omics model of DEQ fusion: MM-Dynamics around the released equilibrium."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jdyn.encoders import MLP, Identity
from jdyn.fusions import MMDynamics
from jdyn.fusions.equilibrium_released import ReleasedEquilibrium
from jdyn.interop import deq_fusion
from jdyn.losses import LOSSES
from jdyn.models import FeatureFusion
from jdyn.tasks import TASKS
from tests.reference import deq


@pytest.mark.usefixtures('compile_fast')
def test_model_and_objective(load):
  reference = load('mmdynamics_deq')  # In float32, as losses are.
  size = reference.meta['constructor']
  names = [f'view_{i}' for i in range(len(size['in_dim']))]
  (features,) = size['hidden_dim']
  fusion = ReleasedEquilibrium(weighted=False, **deq.exact(double=False))
  model = FeatureFusion(
    {name: Identity() for name in names},
    MMDynamics(size['classes'], features, size['dropout'], fusion),
    MLP(size['classes']),
  )
  task = TASKS['multiclass'](size['classes'])
  # L = cross-entropy; L = 1.5 * L + its terms, for every view in turn.
  factors = {name: 1.5 ** (len(names) - 1 - i) for i, name in enumerate(names)}
  terms = {
    'supervised': (1.5 ** len(names), LOSSES['supervised'](task)),
    'per_expert': (1.0, LOSSES['per_expert'](task, factors)),
    'informativeness': (1.0, LOSSES['informativeness'](factors)),
    'confidence': (1.0, LOSSES['confidence'](task, factors, detach=False)),
    'jacobian': (size['jacobian_weight'], LOSSES['jacobian']()),
  }

  def run(weights, inputs):
    views = {name: inputs[f'x{i}'] for i, name in enumerate(names)}
    batch = {'label': inputs['label'], 'mask': jnp.ones(len(inputs['label']))}
    shapes = jax.eval_shape(
      lambda: model.init(jax.random.key(0), views, train=False, hparams={})
    )
    path = Path('reference')
    params = deq_fusion.params(path, weights, shapes['params'], names)

    def apply(*, train):
      rngs = {'probe': jax.random.key(0)}
      with deq.opened(inputs['probe']) as (read, solutions):
        outputs, state = model.apply(
          {'params': params},
          views,
          train=train,
          hparams={},
          rngs=rngs,
          capture_intermediates=True,
        )
      loss = sum(
        weight * term.apply(outputs, batch, {}, (), None)[0].compute()
        for weight, term in terms.values()
      )
      return loss, outputs, state['intermediates'], read[0], solutions[0].iterate

    loss, outputs, layers, features, state = apply(train=True)
    evaluated, *_ = apply(train=False)
    found = {
      'loss/eval': evaluated,
      'logits': outputs.logits,
      'jac_loss': outputs.aux['jacobian'].mean(),
      'zstar': state,
    }
    for i, name in enumerate(names):
      (gate,) = layers['fusion'][f'gate_{name}']['__call__']
      found[f'gate{i}'] = jax.nn.sigmoid(gate)
      found[f'tcp_logit{i}'] = outputs.unimodal[name]
      found[f'confidence{i}'] = outputs.weights[name][:, None]
      found[f'feature{i}'] = features[name]
    return loss, found

  reference.check_loss('train', run)
  reference.finish()
