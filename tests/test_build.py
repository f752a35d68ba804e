"""What a config's keys of fusions, losses and missing modalities become."""

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import base
from jdyn import build
from jdyn.losses import LOSSES
from tests import toys


def decision(fusion='energy_weighted', experts=('image', 'text'), **options):
  """A vote of linear experts."""
  return dict(
    name='decision_fusion',
    experts={name: toys.unimodal(name) for name in experts},
    fusion=dict(name=fusion, **options),
  )


def frozen(fusion, **options):
  """A run whose experts are trained before, and cached."""
  config = toys.config({**decision(fusion), 'experts': {}}, freeze='eval', **options)
  for name in ('image', 'text'):
    config.experts[name] = base.stage(ConfigDict(toys.unimodal(name)))
  return config


def _stage(model, spec=toys.SPEC, **options):
  return build.stage(toys.config(model, **options), spec)


@pytest.mark.parametrize(
  'model',
  [decision(), toys.unimodal('text'), {**toys.joint(), 'absent_embedding': True}],
)
def test_models_that_judge_any_modality_alone_can_lose_the_others(model):
  assert _stage(model, missing_rate=0.1).missing_rate == 0.1


def test_the_keys_of_a_loss_reach_it(monkeypatch):
  seen = {}
  for name in ('rank', 'confidence'):

    def spy(*args, name=name, make=LOSSES[name], **options):
      seen[name] = args[1:], options
      return make(*args, **options)

    monkeypatch.setitem(LOSSES, name, spy)
  views = {name: dict(name='identity') for name in ('image', 'text')}
  model = dict(
    name='feature_fusion',
    encoders=views,
    fusion=dict(name='mm_dynamics', features=2, fusion=dict(name='concat')),
    head=toys.mlp(),
  )
  weights = dict(loss__rank=1.0, loss__confidence=1.0)
  _stage(model, **weights)
  defaults = dict(margin='paper', statistic='mean', update_first=True)
  assert seen['rank'] == ((['image', 'text'],), defaults)
  assert seen['confidence'] == (({},), dict(detach=True, error='squared'))
  _stage(
    model,
    **weights,
    loss__rank_margin='repo',
    loss__rank_history='sum',
    loss__rank_update='after',
    loss__confidence_target='compat',
    loss__confidence_error='absolute',
  )
  released = dict(margin='repo', statistic='sum', update_first=False)
  assert seen['rank'] == ((['image', 'text'],), released)
  assert seen['confidence'] == (({},), dict(detach=False, error='absolute'))


def test_the_penalty_of_evidence_comes_in_epoch_by_epoch():
  stage = _stage(decision('evidential'), loss__evidential=1.0, loss__annealing_epochs=4)
  annealing = stage.make_schedules(10)['evidential_annealing']
  got = [float(annealing(jnp.int32(step))) for step in (0, 9, 10, 25, 39, 40, 70)]
  np.testing.assert_allclose(got, [0, 0, 0.25, 0.5, 0.75, 1, 1])


@pytest.mark.parametrize(
  ('fusion', 'hidden'), [('average', []), ('learned_confidence', ['image', 'text'])]
)
def test_of_frozen_experts_is_cached_what_the_fusion_reads(fusion, hidden):
  stage = build.stage(frozen(fusion), toys.SPEC)
  cached = {'logits/image', 'logits/text', *(f'hidden/{name}' for name in hidden)}
  assert set(stage.inputs) == cached
  assert {n: e.needs for n, e in stage.trained.experts.items()} == {
    'image': ('image',),
    'text': ('text',),
  }
