"""QMF: energies as weights, the history of losses, and the order of confidences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdyn.fusions.average import Average
from jdyn.fusions.energy_weighted import EnergyWeighted
from jdyn.losses import LOSSES
from jdyn.losses.ranking import History
from jdyn.tasks import Multiclass
from jdyn.typing import Outputs
from tests.reference import given

_released = functools.partial(LOSSES['rank'], margin='repo', statistic='sum')


class _Stated:
  """A task whose logits are its losses."""

  def loss(self, logits, batch):
    del batch
    return logits


def _cross_entropies(classes):
  task = Multiclass(classes)
  return [LOSSES['supervised'](task), LOSSES['per_expert'](task, {})]


def test_energies_weigh_the_logits(load):
  reference = load('qmf_latefusion_logits')
  supervised, per_expert = _cross_entropies(reference.meta['constructor']['n_classes'])

  def run(weights, inputs):
    del weights
    logits = {name: inputs[name] for name in ('txt', 'img')}
    dynamic = given.fuse(logits, EnergyWeighted())
    static = given.fuse(logits, Average())
    rgbd = given.fuse(logits, EnergyWeighted(detach=False))
    both, label = [supervised, per_expert], inputs['target']
    losses = {
      'dynamic': given.mean_loss(both, dynamic, label),
      'dynamic_conf': sum(
        jnp.sum(confidence[:, None] * inputs['cot'])
        for confidence in dynamic.weights.values()
      ),
      'static': given.mean_loss(both, static, label),
      'static_ce_only': given.mean_loss([supervised], static, label),
      'rgbd': given.mean_loss(both, rgbd, label),
    }
    return losses, {
      'dynamic/z': dynamic.logits,
      'static/z': static.logits,
      'rgbd/z': rgbd.logits,
      'conf_txt': dynamic.weights['txt'][:, None],
      'conf_img': dynamic.weights['img'][:, None],
    }

  reference.check_losses(run)
  reference.finish()


def _one_view(index, losses, confidence):
  """Outputs and batch of one view with stated losses."""
  outputs = Outputs(losses, unimodal={'x': losses}, weights={'x': confidence})
  return outputs, {'index': index, 'mask': jnp.ones(len(index))}


def _cost(term, total, index, confidence):
  """The mean cost of pairs under a history with these sums."""
  outputs, batch = _one_view(index, jnp.zeros(len(index)), confidence)
  memory = History(total[None], jnp.ones((1, len(total))))
  return term.apply(outputs, batch, {}, memory, None)[0].compute()


def _order(total, index):
  """Sign and size of the gap between each example and the next one in the batch.

  They are found in what a batch of the two costs: `max(0, sign)` at these confidences
  without a margin, and the size at equal confidences with it.
  """
  sign, size = (
    _released(_Stated(), ['x'], margin=margin, update_first=False)
    for margin in ('none', 'paper')
  )

  def of(pair):
    up, down = (_cost(sign, total, pair, jnp.array([c, 0.0])) for c in (1.0, -1.0))
    return up - down, _cost(size, total, pair, jnp.zeros(2))

  return jax.vmap(of)(jnp.stack([index, jnp.roll(index, -1)], axis=1))


def test_order_of_confidences(load):
  reference = load('qmf_rank')

  def run(weights, inputs):
    del weights
    total, index = inputs['history'], inputs['idx']
    losses = {
      name: _cost(
        _released(_Stated(), ['x'], margin=margin, update_first=False),
        total,
        index,
        inputs['conf'][:, 0],
      )
      for name, margin in (('repo', 'repo'), ('repo_rgbd', 'repo'), ('paper', 'paper'))
    }
    target, margin = _order(total, index)
    return losses, {'target': target, 'margin': margin}

  reference.check_losses(run)
  reference.finish()


def test_history_of_losses(load):
  reference = load('qmf_history')
  sizes = reference.meta['constructor']
  term = _released(_Stated(), ['x'])

  def run(weights, inputs):
    del weights
    memory = term.init(sizes['n_data'])
    first, _ = _order(memory.total[0], inputs['idx'][0])
    seen = []
    for step in range(sizes['steps']):
      index = inputs['idx'][step]
      view = _one_view(index, inputs['losses'][step], inputs['conf'][step])
      _, memory = term.apply(*view, {}, memory, None)
      seen.append((memory.total[0], *_order(memory.total[0], index)))
    history, target, margin = map(jnp.stack, zip(*seen, strict=True))
    return {
      'first_target': first,
      'history': history,
      'target': target,
      'margin': margin,
    }

  reference.check(run)
  reference.finish(
    {
      'out/first_margin': 'the original divides 0 by 0; ours is 0',
      'out/confidence': 'the original writes it and never reads it',
    }
  )


@pytest.mark.parametrize('variant', ['text', 'rgbd'])
def test_objective_over_steps(load, variant):
  """History, pairs and cross-entropies together, each step with what was before."""
  reference = load('qmf_total_loss')
  sizes = reference.meta['constructor']
  views = ['img', 'txt']  # In sorted order, as the rows of the history.
  terms = _cross_entropies(sizes['n_classes'])
  text = variant == 'text'
  fusion, factor = EnergyWeighted(detach=text), 1.0 if text else sizes['lamb']
  rank = _released(Multiclass(sizes['n_classes']), views, update_first=text)

  def run(weights, inputs):
    del weights
    memory = rank.init(sizes['n_data'])
    if not text:
      start = inputs['hist0'][::-1]
      memory = History(start, jnp.ones_like(start))
    losses, found = {}, {}
    for step in range(sizes['steps']):
      outputs = given.fuse({name: inputs[name][step] for name in views}, fusion)
      label = inputs['target'][step]
      batch = given.batch_of(label) | {'index': inputs['idx'][step]}
      ranks, memory = rank.apply(outputs, batch, {}, memory, None)
      entropies = given.mean_loss(terms, outputs, label)
      losses[f'{variant}_s{step}'] = entropies + factor * ranks.compute()
      found[f'{variant}/z_s{step}'] = outputs.logits
    names = views if text else ['depth', 'rgb']
    found |= {f'{variant}/hist_{n}': memory.total[k] for k, n in enumerate(names)}
    return losses, found

  reference.check_losses(run)
  other = 'rgbd' if text else 'text'
  reference.finish(
    dict.fromkeys((f'*/{other}_s*', f'out/{other}/*'), 'the other variant')
  )


@pytest.mark.parametrize(
  ('margin', 'costs'),
  [('repo', (0, 0, 0, 0.1)), ('paper', (0.7, 1.0, 1.4, 2.1))],
)
def test_a_pair_costs_what_the_two_signs_of_the_margin_say(margin, costs):
  """The harder example's confidence grows past that of the easier, which is 0.5."""
  term = _released(_Stated(), ['x'], margin=margin, update_first=False)
  history, index = jnp.array([1.0, 0.0]), jnp.arange(2)

  @jax.jit
  @jax.vmap
  def cost(hard):
    return _cost(term, history, index, jnp.stack([hard, 0.5]))

  np.testing.assert_allclose(cost(jnp.array([0.2, 0.5, 0.9, 1.6])), costs, atol=1e-6)
