"""Every config builds, is locked, and can take a step; nothing is trained here."""

import dataclasses
import functools
import importlib
import inspect
import math
import tempfile
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from configs import base
from jdyn import build
from jdyn.data.sources import SOURCES
from jdyn.encoders import ENCODERS
from jdyn.fusions import FUSIONS
from jdyn.models import MODELS
from jdyn.training.programs import hparams_at
from jdyn.training.state import init_state
from jdyn.training.step import train_step
from jdyn.typing import Outputs

FOLDER = Path(base.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob('*.py') if path.stem != 'base')

# What `build` sets itself, and what belongs to every flax module.
_SET_BY_BUILD = {'axis_name', 'confidence', 'name', 'num_outputs', 'parent'}


@functools.cache
def _spec(source):
  """The specification of a dataset, of its stand-in if the files decide it."""
  with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    source.write_stand_in(folder, seed=0)
    return source.spec(folder)


@functools.cache
def _config(name) -> ConfigDict:
  config = importlib.import_module(f'configs.{name}').get_config()
  config.lock()
  return config


@functools.cache
def _stage(name):
  config = ConfigDict(_config(name).to_dict())
  _make_shallow(config)
  return build.stage(config, _spec(build.source(config)))


def _make_shallow(entry):
  """One residual block in place of several, which would be traced for minutes."""
  for key in entry:
    if isinstance(entry[key], ConfigDict):
      _make_shallow(entry[key])
  if entry.get('name') in ('esanet', 'resnet'):
    entry.blocks = (1,) * len(entry.blocks)


def _batch(stage, spec):
  """Shapes of a training batch; frozen experts are logits of their own."""
  size = stage.batch_size
  inputs = {}
  for name in stage.inputs:
    if name in spec.modalities:
      one = build.example_inputs(spec)[name]
    else:
      one = jnp.zeros((1, spec.num_outputs))
    inputs[name] = jax.tree.map(lambda x: _shape((size, *x.shape[1:]), x.dtype), one)
  label = build.example_label(spec)
  label = _shape((size, *label.shape[1:]), label.dtype)
  mask, index = _shape((size,), jnp.float32), _shape((size,), jnp.int32)
  return {'inputs': inputs, 'label': label, 'mask': mask, 'index': index}


def _shape(shape, dtype):
  return jax.ShapeDtypeStruct(shape, dtype)


@pytest.mark.parametrize('name', NAMES)
def test_every_stage_can_take_a_step(name):
  spec = _spec(build.source(_config(name)))
  for stage in build.all_stages(_stage(name)):
    batch, schedules = _batch(stage, spec), stage.make_schedules(10)
    options = dict(model=stage.trained, tx=stage.make_optimizer(10), terms=stage.terms)
    start = functools.partial(
      init_state,
      hparams=hparams_at(schedules, jnp.int32(0)),
      num_examples=100,
      **options,
    )
    step = functools.partial(
      train_step, schedules=schedules, dtype=stage.dtype, **options
    )
    seed = _shape((), jnp.uint32)
    state = jax.eval_shape(start, seed, batch['inputs'])
    after, metrics = jax.eval_shape(step, state, batch)
    assert jax.tree.map(_kind, after) == jax.tree.map(_kind, state), stage.name
    assert metrics['loss'].shape == ()
    assert stage.costs.total > 0
    assert stage.select == 'objective' or stage.select in stage.task.score_names


def _kind(leaf):
  return leaf.shape, leaf.dtype


@pytest.mark.parametrize('name', NAMES)
def test_a_typing_error_fails_with_the_nearest_key(name):
  config = _config(name)
  with pytest.raises(AttributeError, match='Did you mean "batch_size"'):
    config.batch_siez = 3
  with pytest.raises(AttributeError, match='Did you mean "weight_decay"'):
    config.optimizer.wieght_decay = 3


@pytest.mark.parametrize('name', NAMES)
def test_the_docstring_says_how_to_run_it(name):
  note = importlib.import_module(f'configs.{name}').__doc__
  assert f'\nCommand: python -m jdyn.train --config configs/{name}.py' in note


@pytest.mark.parametrize('name', NAMES)
def test_every_key_is_listed_in_the_base(name):
  """A config changes values of `base.get_config()` and adds no key of its own."""

  def check(config, wanted, where):
    # What describes a model, and experts, are entries; they are built above.
    for key in set(config) - {'model', 'experts', 'warm_up', 'pretrained', 'data'}:
      assert key in wanted, f'{where}{key}'
      if isinstance(config[key], ConfigDict):
        check(config[key], wanted[key], f'{where}{key}.')

  def check_stages(config, wanted, where):
    check(config, wanted, where)
    for group in ('experts', 'warm_up'):
      for name in config[group]:
        check_stages(config[group][name], base.stage(), f'{where}{group}.{name}.')

  check_stages(_config(name), base.get_config(), '')


def _defaults(cls):
  """The options of a registered class: its fields that a config may set."""
  return {
    field.name: field.default
    for field in dataclasses.fields(cls)
    if field.init and field.name not in _SET_BY_BUILD
  }


@pytest.mark.parametrize(
  ('listed', 'table'),
  [
    (base.DATASETS, SOURCES),
    (base.ENCODERS, ENCODERS),
    (base.FUSIONS, FUSIONS),
  ],
  ids=['datasets', 'encoders', 'fusions'],
)
def test_the_base_lists_every_option_with_its_default(listed, table):
  assert set(listed) <= set(table)
  if table is not FUSIONS:  # Fusions of sequences are for notebooks, not for configs.
    assert set(listed) == set(table)
  for name, options in listed.items():
    defaults = _defaults(table[name])
    assert set(options) == set(defaults), name
    for key, default in defaults.items():
      option = options[key]
      if isinstance(default, nn.Module):  # Listed as an entry of its own.
        option = table[option['name']](
          **{k: v for k, v in option.items() if k != 'name'}
        )
      if default is not dataclasses.MISSING:
        assert option == default, f'{name}.{key}'


def test_the_base_has_a_function_for_every_model():
  for name, cls in MODELS.items():
    arguments = set(inspect.signature(getattr(base, name)).parameters)
    assert arguments == set(_defaults(cls)), name


def test_training_weighs_classes_and_scores_do_not():
  config = _config('mmimdb_text')
  spec = dataclasses.replace(
    _spec(build.source(config)), class_weights=((1.0, 3.0),) * 23
  )
  stage = build.stage(config, spec)
  batch = {'label': jnp.ones((2, 23)), 'mask': jnp.ones(2)}
  outputs, term = Outputs(jnp.zeros((2, 23))), stage.terms['supervised']
  weighted, _ = term.apply(outputs, batch, {}, term.init(2), None)
  assert weighted.compute() == pytest.approx(3 * math.log(2))
  assert stage.task.loss(outputs.logits, batch)[0] == pytest.approx(math.log(2))


def test_a_fusion_can_hold_another():
  config = ConfigDict(_config('rosmap_mmdynamics').to_dict())
  inner = base.fusion('mm_dynamics', features=3, fusion=base.fusion('average'))
  config.model.fusion = base.fusion('mm_dynamics', features=4, fusion=inner)
  stage = build.stage(config, _spec(build.source(config)))
  fusion = stage.model.fusion
  assert (fusion.features, fusion.fusion.features) == (4, 3)
  assert fusion.num_outputs == fusion.fusion.num_outputs == 2
  assert fusion.fusion.fusion == FUSIONS['average']()
  assert set(stage.terms) == {
    'confidence',
    'informativeness',
    'per_expert',
    'supervised',
  }
