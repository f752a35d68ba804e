"""A config that cannot run is refused with its key, before anything is compiled.

This is the short version of `python -m tests.faults configs`.
"""

import dataclasses
import random
import re
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from configs import base, digits_dyn
from jdyn import build, config_schema
from jdyn.build import ConfigError
from jdyn.data.sources import SOURCES
from jdyn.encoders import ENCODERS
from jdyn.fusions import FUSIONS
from jdyn.gates import GATES
from jdyn.models import MODELS
from tests import toys
from tests.faults import configs, kills

MULTILABEL = dataclasses.replace(toys.SPEC, task='multilabel')
REGRESSION = dataclasses.replace(
  toys.SPEC, task='regression', num_outputs=1, class_names=()
)


@pytest.mark.parametrize('each', configs.COMBINATIONS, ids=lambda each: each.what)
def test_what_cannot_be_together_is_refused(each):
  assert configs.tried(each) == ''


def test_wrong_values_of_any_key_are_refused():
  """Forty, drawn from all keys of all kinds of models."""
  seed = random.randrange(10**6)
  print(f'drawn with seed {seed}')
  chance = random.Random(seed)
  families = configs.families()
  drawn = [
    (name, mutation)
    for name, (config, _) in families.items()
    for mutation in configs.of_family(name, config)
    if mutation.never
  ]
  for name, mutation in chance.sample(drawn, 40):
    config, dataset = families[name]
    found = configs.outcome(mutation.apply(config), dataset)
    assert configs.problem_of(mutation, found) == '', (name, mutation)


@pytest.mark.parametrize('name', ['digits_dyn', 'nyuv2_dyn_local', 'mosi_weak'])
def test_every_key_of_a_file_is_checked(name):
  found = list(configs.of_file(name))
  assert len(found) > 100
  assert [(mutation, problem) for mutation, problem in found if problem] == []


def test_what_is_fine_is_accepted():
  """Otherwise a check that refuses everything would pass."""
  for name in ('unimodal', 'stages', 'esanet', 'fusion equilibrium'):
    config, dataset = configs.families()[name]
    assert configs.outcome(config, dataset) == configs.Outcome('')


def test_a_compilation_is_noticed(monkeypatch):
  import jax

  def prepare(*args):
    jax.jit(lambda x: x * random.random())(1.0)

  monkeypatch.setattr(configs, 'prepare', prepare)
  config, dataset = configs.families()['unimodal']
  assert '1 compilations' in configs.outcome(config, dataset).problem


@pytest.mark.parametrize('table', [ENCODERS, FUSIONS, GATES, MODELS, SOURCES])
def test_every_option_has_a_type_and_a_range(table):
  for name, cls in table.items():
    checks = config_schema.option_checks(cls)
    for field in dataclasses.fields(cls):
      known = field.name in checks
      assert known or field.name in config_schema.NOT_OF_A_CONFIG, (name, field.name)
      if known and field.default not in (dataclasses.MISSING, None):
        default = field.default
        if dataclasses.is_dataclass(default):  # An entry, in a config.
          default = {'name': 'concat'}
        checks[field.name](field.name, default)


def test_every_key_of_the_base_is_known():
  plain = base.get_config().to_dict()
  plain['model'] = {'name': 'unimodal'}
  config_schema.check_run(plain)
  config_schema.check_stage('main', plain, main=True)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'batch_siez': 3}, "batch_siez is unknown; .* Did you mean 'batch_size'"),
    ({'batch_size': 0}, 'batch_size=0 must be at least 1'),
    ({'seed': -1}, 'seed=-1 must be at least 0'),
    ({'holdout': 1.0}, r'main: holdout=1.0 must lie in \[0, 1\)'),
    ({'freeze': 'all'}, "main: freeze='all'; expected one of"),
    ({'dtype': 'float16'}, "dtype='float16'; expected one of"),
    ({'select': 'mae'}, "main: select='mae': Unknown score 'mae'"),
    ({'optimizer.name': 'lion'}, "main: optimizer.name='lion'; expected one of"),
    ({'model.gate.head.name': 'mpl'}, "main: model.gate.head.name: Unknown head 'mpl'"),
    ({'model.gate.head.hiden': 3}, r"model.gate.head.hiden: head 'mlp' has no option"),
    ({'experts.coarse.loss.budget': -0.1}, 'coarse: loss.budget=-0.1 must be at least'),
    ({'experts.coarse.model.encoder.dropout': 1.5}, r'encoder.dropout=1.5 must lie in'),
    ({'data.name': 'digit'}, "data.name: Unknown dataset 'digit'; expected one of"),
    ({'data.valid_fraction': 0.0}, r'data.valid_fraction=0.0 must lie in \(0, 1\)'),
  ],
)
def test_the_error_says_what_may_stand_there(change, message):
  config = ConfigDict(digits_dyn.get_config().to_dict())
  config.update_from_flattened_dict(change)
  source = SOURCES['digits']()

  def make():
    build.run(config)
    build.source(config)
    build.stage(config, source.spec(None))

  with pytest.raises(ConfigError, match=message):
    make()


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
  config = toys.config(configs.votes(**fusion))
  for spec in (toys.SPEC, MULTILABEL, REGRESSION):
    if spec.task in tasks:
      assert build.stage(config, spec).model.fusion
    else:
      with pytest.raises(ConfigError, match=f"dataset 'toy' is {spec.task}"):
        build.stage(config, spec)


_FILES = {
  'syntax': ('def get_config(: pass', r'config.py, line 1: .*invalid syntax'),
  'raises': ('def get_config():\n  return {}["x"]', 'line 2: KeyError: x'),
  'empty': ('x = 1', "has no attribute 'get_config'"),
  'other': ('def get_config():\n  return 3', 'gave 3 and no ConfigDict'),
}


@pytest.mark.parametrize('case', _FILES)
def test_a_config_file_that_is_none_is_one_line(case, tmp_path):
  text, message = _FILES[case]
  path = tmp_path / 'config.py'
  path.write_text(text)
  _refused(['--config', str(path)], message)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--config', 'nowhere.py'], r"No such file or directory: 'nowhere.py'"),
    (['--config', kills.CONFIG, '--config.batch_size=x'], 'batch_size=x: invalid'),
    (['--config', kills.CONFIG, '--config.epoch=3'], 'Did you mean "epochs"'),
    ([], '--config must have a value'),
  ],
)
def test_wrong_arguments_are_one_line(arguments, message):
  _refused(arguments, message)


def _refused(arguments, message):
  command = [sys.executable, '-m', 'jdyn.train', *arguments]
  done = subprocess.run(
    command, cwd=kills.ROOT, capture_output=True, text=True, timeout=120, check=False
  )
  assert done.returncode == 1
  assert 'Traceback' not in done.stderr
  lines = done.stderr.strip().splitlines()
  assert sum(line.startswith(('error:', 'FATAL')) for line in lines) == 1
  assert re.search(message, lines[0]), lines
