"""What a stage starts with: another stage's variables, or those in a folder."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import base
from jdyn import build
from jdyn.build import ConfigError
from jdyn.training import variables
from jdyn.training.checkpoint import CheckpointError
from tests import toys

STILL = dict(
  optimizer__name='sgd',
  optimizer__learning_rate__init_value=0.0,
  optimizer__learning_rate__end_value=0.0,
  optimizer__weight_decay=0.0,
  epochs=1,
)
"""Training that changes no parameter."""


def _model():
  return toys.unimodal('text', dict(name='mlp', hidden=(5,), features=4))


def _warmed(**options):
  """A stage that trains, and one that starts from there and stands still."""
  config = toys.config(_model(), **STILL, **options)
  config.warm_up.first = base.stage(ConfigDict(config.model.to_dict()))
  config.warm_up.first.epochs = 2
  config.warm_up.first.batch_size = 8
  return config


def _best(workdir, config, stage='main'):
  built = build.find_stage(build.stage(config, toys.SPEC), stage)
  folder = workdir / 'stages' / stage
  return variables.load_best(folder, built, toys.SPEC, config.num_seeds)


def _assert_same(got, want):
  assert jax.tree.structure(got) == jax.tree.structure(want)
  jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.fixture
def warmed(train):
  """The config of a run with a warm-up, and its folder."""
  config = _warmed(num_seeds=2)
  return config, train(config, 'warmed')


def test_a_stage_starts_from_its_warm_up(warmed):
  config, workdir = warmed
  first, main = (_best(workdir, config, stage) for stage in ('first', 'main'))
  _assert_same(main, first)
  names = [stage.name for stage in build.all_stages(build.stage(config, toys.SPEC))]
  assert names == ['first', 'main']


def test_a_stage_starts_from_the_folder_of_a_run(warmed, train):
  config, workdir = warmed
  own = toys.config(_model(), num_seeds=2, **STILL)
  own.pretrained.model = str(workdir)
  _assert_same(_best(train(own), own), _best(workdir, config))
  # Seeds differ in what they start with; one seed cannot take the variables of two.
  own.num_seeds = 1
  with pytest.raises(CheckpointError, match=r'has seeds \(0, 1\), this run has \(0,\)'):
    train(own, 'other')


def test_a_part_may_be_all_that_is_taken(warmed, train):
  """One model's encoder, from a folder that holds one, for all seeds."""
  config, workdir = warmed
  best = _best(workdir, config)
  encoder = {name: tree['encoder'] for name, tree in best.items() if 'encoder' in tree}
  folder = workdir / 'weights'
  variables.save_best(folder, 0, jax.tree.map(lambda x: x[:1], encoder))
  own = toys.config(_model(), num_seeds=2, **STILL)
  own.pretrained.text = str(folder)
  found = _best(train(own), own)['params']
  for seed in range(2):
    here = jax.tree.map(lambda x, s=seed: x[s], found['encoder'])
    _assert_same(here, jax.tree.map(lambda x: x[0], encoder['params']))
  assert not np.array_equal(*found['head']['dense_0']['kernel'])


def test_folders_without_a_model_are_refused(train, tmp_path):
  config = toys.config(_model(), **STILL)
  config.pretrained.model = str(tmp_path / 'nothing')
  with pytest.raises(CheckpointError, match='nothing holds no trained model; give'):
    train(config)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'pretrained.smell': 'x'}, r"main: pretrained.smell='x': .*\['model', 'text'\]"),
    ({'pretrained.network': 'x'}, 'pretrained.network'),
    ({'pretrained.model': 'x'}, 'main: warm_up and pretrained both'),
    ({'model.encoder.hidden': (6,)}, "main: stage 'first' cannot warm it up"),
    ({'experts.first': {}}, r"warm_up \['first'\] must be one stage at most"),
  ],
)
def test_what_cannot_be_started_with_is_refused(change, message):
  config = _warmed()
  for key, value in change.items():
    *path, last = key.split('.')
    place = config
    for name in path:
      place = place[name]
    place[last] = base.stage(config.model) if value == {} else value
  with pytest.raises(ConfigError, match=message):
    build.stage(config, toys.SPEC)
