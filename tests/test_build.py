"""What a config's keys of fusions, losses and missing modalities become."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest

from jdyn import build
from jdyn.build import ConfigError
from jdyn.losses import LOSSES
from tests import toys

MULTILABEL = dataclasses.replace(toys.SPEC, task='multilabel')
REGRESSION = dataclasses.replace(
  toys.SPEC, task='regression', num_outputs=1, class_names=()
)


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
    expert = build.ConfigDict(toys.config(toys.unimodal(name)).to_dict())
    config.experts[name] = expert
  return config


def _stage(model, spec=toys.SPEC, **options):
  return build.stage(toys.config(model, **options), spec)


_gated = functools.partial(toys.gated, dict(text=toys.unimodal('text')))


@pytest.mark.parametrize(
  ('model', 'options', 'message'),
  [
    (decision(), dict(missing_rate=1.0), r'missing_rate=1.0 must lie in \[0, 1\)'),
    (decision(), dict(missing_rate=-0.1), 'missing_rate=-0.1 must lie in'),
    (
      toys.joint(),
      dict(missing_rate=0.1),
      "nothing but 'audio', which the model cannot judge; set absent_embedding=True",
    ),
    (toys.MODELS['early_fusion'], dict(missing_rate=0.1), "nothing but 'image'"),
    (toys.LINEAR_EXPERTS, dict(missing_rate=0.1), "nothing but 'image'"),
    (decision(), dict(loss__rank_margin='x'), "main: loss.rank_margin='x'; expected"),
    (decision(), dict(loss__rank_history='x'), "main: loss.rank_history='x'; expec"),
    (decision(), dict(loss__rank_update='x'), "main: loss.rank_update='x'; expected"),
    (toys.joint(), dict(loss__rank=1.0), 'model with experts; set loss.rank=0'),
    (decision('average'), dict(loss__rank=1.0), "weights of fusion 'average'; set"),
    (
      decision('product_of_experts'),
      dict(loss__rank=1.0),
      "main: loss 'rank' needs a confidence of every expert, and 'image' has none",
    ),
    (decision(), dict(loss__evidential=1.0), "main: loss 'evidential' needs fusion"),
    (
      decision('evidential'),
      dict(loss__annealing_epochs=0),
      'annealing_epochs=0 must be greater than 0',
    ),
    (
      decision(),
      dict(loss__confidence=1.0),
      "main: loss 'confidence' needs a fusion that predicts one",
    ),
    (decision(), dict(loss__confidence_error='x'), "loss.confidence_error='x'; exp"),
    (
      decision(normalize='x'),
      {},
      "main: Unknown normalize='x'; expected none",
    ),
    (decision('product_of_experts', evaluate='x'), {}, "evaluate='x'; expected prod"),
    (
      {**decision('learned_confidence'), 'experts': {'gate': toys.LINEAR_EXPERTS}},
      {},
      "main: fusion learned_confidence .* 'gate' has none",
    ),
  ],
)
def test_what_cannot_be_trained_is_refused(model, options, message):
  with pytest.raises(ConfigError, match=message):
    _stage(model, **options)


def test_frozen_experts_lose_nothing():
  with pytest.raises(ConfigError, match=r"missing_rate=0.1 takes .* set freeze='none'"):
    build.stage(frozen('average', missing_rate=0.1), toys.SPEC)


@pytest.mark.parametrize(
  'model',
  [decision(), toys.unimodal('text'), {**toys.joint(), 'absent_embedding': True}],
)
def test_models_that_judge_any_modality_alone_can_lose_the_others(model):
  assert _stage(model, missing_rate=0.1).missing_rate == 0.1


@pytest.mark.parametrize(
  ('fusion', 'tasks'),
  [
    (dict(fusion='average'), {'multiclass', 'multilabel', 'regression'}),
    (dict(fusion='energy_weighted'), {'multiclass'}),
    (dict(fusion='evidential'), {'multiclass'}),
    (dict(fusion='learned_confidence'), {'multiclass'}),
    (dict(fusion='product_of_experts'), {'multiclass', 'multilabel'}),
    (dict(fusion='product_of_experts', evaluate='mixture'), {'multiclass'}),
  ],
)
def test_fusions_of_votes_know_which_logits_they_fuse(fusion, tasks):
  for spec in (toys.SPEC, MULTILABEL, REGRESSION):
    model = decision(**fusion)
    if spec.task in tasks:
      assert _stage(model, spec).model.fusion
    else:
      with pytest.raises(ConfigError, match=f"dataset 'toy' is {spec.task}"):
        _stage(model, spec)


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
