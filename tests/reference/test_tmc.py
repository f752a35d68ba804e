"""TMC: Dempster's rule, and the loss of Dirichlet distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdyn.encoders.identity import Identity
from jdyn.encoders.mlp import MLP
from jdyn.fusions.evidential import Evidential
from jdyn.losses import LOSSES
from jdyn.models.decision_fusion import DecisionFusion
from jdyn.models.unimodal import Unimodal
from jdyn.ops.evidence import combine, divergence_from_uniform
from jdyn.tasks import Multiclass
from jdyn.typing import Outputs
from tests.reference import convert, given


def test_combination(load):
  reference = load('qmf_tmc_combine')

  def run(weights, inputs):
    del weights
    views = list(inputs['alpha'] - 1)
    alpha = {'two': combine(views[:2]) + 1, 'three': combine(views) + 1}
    losses = {name: jnp.sum(jnp.log(alpha[name]) * inputs['cot']) for name in alpha}
    return losses, alpha

  reference.check_losses(run)
  reference.finish()


def _alone(logits):
  """Outputs with the log of one Dirichlet's parameters, and no views."""
  return Outputs(logits, aux={'evidence/vacuity': jnp.zeros(len(logits))})


def test_loss_of_two_views(load):
  reference = load('qmf_tmc_loss')
  sizes = reference.meta['constructor']
  terms = [LOSSES['evidential'](Multiclass(sizes['n_classes']))]
  annealing = {
    f'e{epoch}': min(1.0, epoch / sizes['annealing_epoch']) for epoch in sizes['epochs']
  }

  def run(weights, inputs):
    del weights
    outputs = given.fuse({name: inputs[name] for name in ('txt', 'img')}, Evidential())
    parameters = {**outputs.unimodal, 'fused': outputs.logits}

    def loss(of, epoch):
      return given.mean_loss(terms, of, inputs['target'], evidential_annealing=epoch)

    found = {f'alpha_{name}': jnp.exp(value) for name, value in parameters.items()}
    found['kl_txt'] = divergence_from_uniform(found['alpha_txt'])[:, None]
    found |= {
      f'{name}_{key}': loss(_alone(value), epoch)
      for name, value in parameters.items()
      for key, epoch in annealing.items()
    }
    found['fused_einf'] = loss(_alone(outputs.logits), 1.0)
    return {key: loss(outputs, epoch) for key, epoch in annealing.items()}, found

  reference.check_losses(run)
  reference.finish({'out/mse_e*': 'a loss that no original script uses'})


def _linear_maps(weights, prefix):
  """Parameters of one linear map: the original stacks some, with nothing between."""
  kernel, bias = None, 0.0
  for i in range(convert.count(weights, prefix.replace('.', r'\.') + r'(\d+)\.weight')):
    layer = convert.dense(weights, f'{prefix}{i}')
    kernel = layer['kernel'] if kernel is None else kernel @ layer['kernel']
    bias = bias @ layer['kernel'] + layer['bias'] if i else layer['bias']
  return {'kernel': kernel, 'bias': bias}


def test_released_model_of_many_views(load):
  reference = load('tmc_iclr')
  sizes = reference.meta['constructor']
  names = [f'view{i}' for i in range(sizes['views'])]
  head = MLP(sizes['classes'])
  experts = {name: Unimodal(name, Identity(), head.clone()) for name in names}
  model = DecisionFusion(experts, Evidential())
  terms = [LOSSES['evidential'](Multiclass(sizes['classes']))]

  def run(weights, inputs):
    params = {
      f'experts_{name}': {
        'head': {'dense_0': _linear_maps(weights, f'Classifiers.{i}.fc.')}
      }
      for i, name in enumerate(names)
    }
    views = {name: inputs[name] for name in names}
    outputs = model.apply({'params': params}, views, train=False, hparams={})
    losses = {
      f'e{epoch}': given.mean_loss(
        terms,
        outputs,
        inputs['target'],
        evidential_annealing=min(1.0, epoch / sizes['lambda_epochs']),
      )
      for epoch in sizes['epochs']
    }
    found = {
      f'evidence{i}': jnp.expm1(outputs.unimodal[name]) for i, name in enumerate(names)
    }
    return losses, found | {'evidence_fused': jnp.expm1(outputs.logits)}

  reference.check_losses(run)
  reference.finish()


def test_two_views_that_were_combined_by_hand():
  views = [jnp.array([[2.0, 0, 0, 0]]), jnp.array([[0, 0, 0, 5.0]])]
  alpha = combine(views) + 1
  np.testing.assert_allclose(alpha, [[3, 1, 1, 6]], rtol=1e-6)


@pytest.mark.parametrize(('annealing', 'want'), [(0.5, 2.355335), (1.0, 3.281701)])
def test_a_loss_that_was_computed_by_hand(annealing, want):
  term = LOSSES['evidential'](Multiclass(4))
  outputs = _alone(jnp.log(jnp.array([[3.0, 1, 1, 6]])))
  loss = jax.jit(
    lambda o: given.mean_loss(
      [term], o, jnp.zeros(1, jnp.int32), evidential_annealing=annealing
    )
  )(outputs)
  np.testing.assert_allclose(loss, want, rtol=1e-6)
