"""Configs with every wrong value of every key, and combinations that cannot run.

A small config of every kind of model has each of its keys set to values of other types,
out of range and of unknown names, left out, and joined by an unknown one; a table says
what else cannot be. All of it must end in one error that names the key, raised before
anything is compiled, by what a run does before it trains. What is accepted is counted;
`--accepted FILE` lists it for a person to look at. Of every file in `configs/`, the
keys are mutated likewise as the command line would, without building.
"""

import contextlib
import copy
import dataclasses
import importlib
import math
import random
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import base
from jdyn import build
from jdyn.config_schema import check_run, check_stage
from jdyn.data.dataset import DataError, Dataset
from jdyn.training import loop
from jdyn.training.checkpoint import CheckpointError
from jdyn.training.context import Context, FirstStep, StopFlag
from jdyn.training.parallel import Parallel
from jdyn.training.workdir import held
from tests import toys
from tests.faults.table import Row

_REFUSALS = (build.ConfigError, CheckpointError, DataError)
_COMPILED = '/jax/core/compile/backend_compile_duration'
_LIMIT = 120
"""Seconds in which a config must be refused or accepted, on a busy machine."""

_compiled = 0


def _count(event: str, seconds: float, **about) -> None:
  global _compiled
  del seconds, about
  _compiled += event == _COMPILED


jax.monitoring.register_event_duration_secs_listener(_count)


@dataclasses.dataclass(frozen=True)
class Mutation:
  """One wrong value.

  Attributes:
    fault: its kind.
    key: dotted.
    value: in its place; `_ABSENT` to leave the key out.
    never: whether no config may have it.
  """

  fault: str
  key: str
  value: Any
  never: bool = True

  def apply(self, config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with this value."""
    changed = copy.deepcopy(dict(config))
    *groups, last = self.key.split('.')
    group = changed
    for name in groups:
      group = group[name]
    if self.value is _ABSENT:
      del group[last]
    else:
      group[last] = self.value
    return changed


class _Absent:
  def __repr__(self):
    return 'absent'


_ABSENT = _Absent()
_NONE_IS_FINE = ('trained_size', 'clip')
_FREE_TEXT = ('data.root',)
_MISSING_IS_FINE = ('model.', 'data.', 'pretrained.')


def mutations(config: Mapping[str, Any], prefix: str = '') -> Iterator[Mutation]:
  """Every wrong value of every key of a config, a group of keys included."""
  for name, value in config.items():
    key = f'{prefix}{name}'
    for wrong in _other_types(value):
      if not (wrong is None and name in _NONE_IS_FINE):
        yield Mutation('wrong type', key, wrong)
    yield from _out_of_range(key, value)
    if isinstance(value, str) and key not in _FREE_TEXT:
      yield Mutation('unknown name', key, 'no_such_name', never=bool(value))
    optional = any(f'.{group}' in f'.{key}' for group in _MISSING_IS_FINE)
    yield Mutation('missing key', key, _ABSENT, never=not optional)
    if isinstance(value, Mapping):
      yield from mutations(value, f'{key}.')
  if config and not prefix.endswith(('experts.', 'warm_up.', 'encoders.')):
    yield Mutation('unknown key', f'{prefix}no_such_key', 1)


def _other_types(value: Any) -> list[Any]:
  if isinstance(value, Mapping):
    return [3, 'text', None, (1,)]
  if isinstance(value, bool):
    return ['text', None, 2.5, 1, (True,), {}]
  if isinstance(value, int):
    return ['text', None, True, 0.5, (1,), {}]
  if isinstance(value, float):
    return ['text', None, True, (1.0,), {}]
  if isinstance(value, str):
    return [3, None, True, ('text',), {}]
  if isinstance(value, (tuple, list)):
    items = [(1, None), (True, 'text')] if value else [(None,)]
    return ['text', 3, None, {}, *items]
  return [3, 'text', {}, ('text',)]


def _out_of_range(key: str, value: Any) -> Iterator[Mutation]:
  if isinstance(value, (bool, str, Mapping)):
    return
  if isinstance(value, (tuple, list)):
    if value and isinstance(value[0], (int, float)):
      for wrong in (-1, math.nan, math.inf):
        yield Mutation('out of range', key, (wrong, *value[1:]))
      for other in ((0, *value[1:]), (10**9, *value[1:]), (), (*value, 1)):
        yield Mutation('out of range', key, other, never=False)
    return
  if value is not None:
    negative = -2 if key.endswith('patience') else -1
    signed = key.endswith(('temperature.end_value',))
    yield Mutation('out of range', key, type(value)(negative), never=not signed)
    for wrong in (math.nan, math.inf, -math.inf):
      yield Mutation('out of range', key, wrong)
    for other in (0, 1, 10**9):
      yield Mutation('out of range', key, type(value)(other), never=False)


def prepare(config: ConfigDict, dataset: Dataset, folder: Path) -> None:
  """What a run does before it trains (`loop.opened`, `loop.check`), on other data."""
  run = build.run(config)
  build.source(config)
  parallel = Parallel(run.parallel)
  with contextlib.ExitStack() as stack:
    lock = stack.enter_context(held(folder))
    stop = StopFlag()
    stack.callback(stop.restore)
    stage = build.stage(config, dataset.spec, parallel.axis_name)
    first = FirstStep(0.0)
    context = Context(config, run, dataset, parallel, folder, stop, first, lock)
    loop.check(stage, context)


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What became of a config: refused with `message`, or accepted; and `problem`."""

  message: str
  problem: str = ''


def outcome(config: Mapping[str, Any], dataset: Dataset) -> Outcome:
  """Prepares a run, and says whether anything was compiled, hung or fell through."""
  before = _compiled
  message = problem = ''
  with tempfile.TemporaryDirectory() as folder, _within(_LIMIT):
    try:
      prepare(ConfigDict(config), dataset, Path(folder))
    except _REFUSALS as error:
      message = str(error)
    except Exception as error:  # That is what is looked for.
      problem = f'{type(error).__name__}: {error}'.split('\n')[0]
  if '\n' in message:
    problem = f'an error of several lines: {message!r}'
  if _compiled > before:
    problem = f'{_compiled - before} compilations; {message or "accepted"}'
  return Outcome(message, problem)


@contextlib.contextmanager
def _within(seconds: int) -> Iterator[None]:
  def late(number, frame):
    raise TimeoutError(f'not done in {seconds} s')

  before = signal.signal(signal.SIGALRM, late)
  signal.alarm(seconds)
  try:
    yield
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def problem_of(mutation: Mutation, found: Outcome) -> str:
  """What is wrong with an outcome; empty if nothing is."""
  if found.problem:
    return found.problem
  if not found.message:
    return 'accepted' if mutation.never else ''
  return '' if names_key(found.message, mutation.key) else f'no key: {found.message}'


def names_key(message: str, key: str) -> bool:
  """Whether a message names a key, or the part of the model that it is in."""
  parts = key.split('.')
  if parts[-1] in message or (parts[-2:-1] and parts[-2] in message):
    return True
  # The innermost group that has a name of its own, such as `model.encoders.image`.
  return any('.'.join(parts[-k - 1 : -1]) in message for k in range(2, len(parts)))


def _picture_dataset(spec, make) -> Dataset:
  splits = {
    name: make(size, seed)
    for seed, (name, size) in enumerate(dict(train=44, valid=9, test=9).items())
  }
  return Dataset(spec=spec, splits=splits, origin='bundled', hashes={})


def families() -> dict[str, tuple[dict[str, Any], Dataset]]:
  """A small config of every kind of model, and its data."""
  found = {}
  for case, model in toys.MODELS.items():
    found[case] = toys.config(model).to_dict(), _picture_dataset(*toys.data_of(case))
  for name, options in _FUSIONS.items():
    model = toys.joint() | {'fusion': {'name': name, **base.FUSIONS[name], **options}}
    for modality in model['encoders']:
      model['encoders'][modality] = toys.mlp(features=4)
    config = toys.config(model).to_dict()
    found[f'fusion {name}'] = config, toys.dataset()
  for name, options in _VOTES.items():
    experts = {m: toys.unimodal(m) for m in ('image', 'text')}
    fusion = {'name': name, **base.FUSIONS[name], **options}
    model = dict(name='decision_fusion', experts=experts, fusion=fusion)
    found[f'votes {name}'] = toys.config(model).to_dict(), toys.dataset()
  for name, options in _ENCODERS.items():
    encoder = {'name': name, **base.ENCODERS[name], **options}
    model = toys.unimodal('rgb', encoder)
    pictures = _picture_dataset(toys.PICTURES, toys.pictures)
    found[f'encoder {name}'] = toys.config(model).to_dict(), pictures
  transformer = dict(features=4, blocks=1, heads=2, feedforward=4)
  encoder = {'name': 'transformer', **base.ENCODERS['transformer'], **transformer}
  model = toys.unimodal('audio', encoder)
  found['encoder transformer'] = toys.config(model).to_dict(), toys.dataset()
  found['stages'] = toys.stages().to_dict(), toys.dataset()
  return found


_FUSIONS = {
  'concat': {},
  'equilibrium': dict(features=4, max_steps=3, adjoint_steps=3),
  'equilibrium_released': dict(max_steps=3, adjoint_steps=3),
  'low_rank': dict(features=4, rank=2),
  'mm_dynamics': dict(features=4),
  'tensor': {},
}
_VOTES = {
  'energy_weighted': {},
  'evidential': {},
  'learned_confidence': {},
  'product_of_experts': {},
}
_ENCODERS = {
  'lenet': dict(channels=2, blocks=1),
  'pooled_resnet': dict(blocks=(1, 1), widths=(4, 4)),
  'preact_resnet': dict(blocks=(1, 1), widths=(4, 4), groups=2, pool=2),
}


def of_family(name: str, config: Mapping[str, Any]) -> list[Mutation]:
  """The mutations of a family: of its model alone, but for one that has all keys."""
  found = list(mutations(config))
  if name == 'stages':
    return [m for m in found if '.model.' not in m.key and m.key != 'model']
  return [m for m in found if m.key.startswith('model')]


# Combinations. Each is a change of a toy or of a config, and what the error must say.


@dataclasses.dataclass(frozen=True)
class Combination:
  """Values that are fine one by one and cannot be together.

  Attributes:
    what: in a few words.
    make: a config, as a dict.
    says: what the error must name.
    data: what it is to run on.
  """

  what: str
  make: Callable[[], Mapping[str, Any]]
  says: str
  data: Callable[[], Dataset] = toys.dataset


def _toy(model: Any = None, **options) -> Callable[[], Mapping[str, Any]]:
  def make():
    made = model() if callable(model) else model
    return toys.config(made or toys.joint(), **options).to_dict()

  return make


def _stages(change: Callable[[Any], None] | None = None, **options):
  def make():
    config = toys.stages(**options)
    if change:
      change(config)
    return config.to_dict()

  return make


def _with_data(**options):
  def make():
    config = toys.stages().to_dict()
    return {**config, 'data': {**config['data'], **options}}

  return make


def votes(fusion: str, *experts: str, **options) -> dict[str, Any]:
  names = experts or ('image', 'text')
  return dict(
    name='decision_fusion',
    experts={name: toys.unimodal(name) for name in names},
    fusion={'name': fusion, **base.FUSIONS[fusion], **options},
  )


def _fused(fusion: str, **options) -> dict[str, Any]:
  encoders = {m: toys.mlp(features=4) for m in ('audio', 'image', 'text')}
  fusion = {'name': fusion, **base.FUSIONS[fusion], **options}
  return toys.joint() | {'encoders': encoders, 'fusion': fusion}


def _picture(name: str, **options) -> dict[str, Any]:
  return toys.unimodal('rgb', {'name': name, **base.ENCODERS[name], **options})


def _scene(**options) -> dict[str, Any]:
  return toys.esanet() | options


def _resnet(**options) -> dict[str, Any]:
  return dict(name='resnet', block='basic', blocks=(1, 1), widths=(4, 4)) | options


def _pictures() -> Dataset:
  return _picture_dataset(toys.PICTURES, toys.pictures)


def _scenes(**changes) -> Callable[[], Dataset]:
  def make():
    data = _picture_dataset(toys.SCENES, toys.scenes)
    return dataclasses.replace(data, spec=dataclasses.replace(data.spec, **changes))

  return make


def _augmented() -> Dataset:
  data = toys.dataset()

  def augment(inputs, label, key):
    return inputs, label

  train = dataclasses.replace(data.splits['train'], augment=augment)
  return dataclasses.replace(data, splits={**data.splits, 'train': train})


def _absent() -> Dataset:
  data = toys.dataset()
  splits = {}
  for name, split in data.splits.items():
    mask = np.arange(len(split)) % 2 == 0
    inputs = {**split.inputs, 'present/image': mask}
    splits[name] = dataclasses.replace(split, inputs=inputs)
  return dataclasses.replace(data, splits=splits)


def _regression() -> Dataset:
  data = toys.dataset()
  spec = dataclasses.replace(
    data.spec, task='regression', num_outputs=1, class_names=()
  )
  return dataclasses.replace(data, spec=spec)


def _drop(group: str, name: str) -> Callable[[Any], None]:
  def change(config):
    found = config
    for key in group.split('.'):
      found = found[key]
    del found[name]

  return change


def _add_expert(config) -> None:
  config.experts.extra = base.stage(ConfigDict(toys.unimodal('audio')))


def _warm(*names: str) -> Callable[[Any], None]:
  def change(config):
    for name in names:
      stage = base.stage(ConfigDict(toys.unimodal('text')))
      stage.batch_size = 8
      config.warm_up[name] = stage

  return change


def _transformer(**options):
  return toys.unimodal(
    'audio', {'name': 'transformer', **base.ENCODERS['transformer'], **options}
  )


def _schedule(**options) -> ConfigDict:
  return base.schedule(1.0, 0.5, **options)


_linear = _schedule(name='linear')
_GATED = toys.LINEAR_EXPERTS
COMBINATIONS: Sequence[Combination] = (
  # What does not divide or fit in the model.
  Combination(
    'heads do not divide',
    _toy(lambda: _transformer(features=5, heads=2, blocks=1)),
    'model.encoder',
  ),
  Combination(
    'groups do not divide widths',
    _toy(lambda: _picture('preact_resnet', widths=(6,), blocks=(1,), groups=4)),
    'model.encoder',
    _pictures,
  ),
  Combination(
    'groups do not divide features',
    _toy(lambda: _fused('equilibrium', features=4, groups=3)),
    'model.fusion',
  ),
  Combination(
    'released groups do not divide',
    _toy(lambda: _fused('equilibrium_released', groups=3)),
    'model.fusion',
  ),
  Combination(
    'widths without blocks',
    _toy(lambda: _picture('pooled_resnet', widths=(4, 4), blocks=(1,))),
    'model.encoder',
    _pictures,
  ),
  Combination(
    'image too small for lenet',
    _toy(lambda: _picture('lenet', blocks=5)),
    'model.encoder',
    _pictures,
  ),
  Combination(
    'image too small for strided convolutions',
    _toy(lambda: _picture('strided_conv', widths=(2, 2, 2), size=5)),
    'model.encoder',
    _pictures,
  ),
  Combination(
    'images for lenet that are vectors',
    _toy(toys.unimodal('text', dict(name='lenet'))),
    'model.encoder',
  ),
  Combination(
    'sequence encoder of a vector',
    _toy(toys.unimodal('text', dict(name='gru', features=3))),
    'model.encoder',
  ),
  Combination(
    'widths to be added differ',
    _toy(lambda: toys.joint() | {'fusion': dict(name='equilibrium')}),
    'model.fusion',
  ),
  Combination(
    'fusion of three that takes two',
    _toy(lambda: _fused('multiplicative', kind='vector', features=4)),
    'model.fusion',
  ),
  Combination(
    'query that is no input',
    _toy(lambda: _fused('masked_attention', query='smell')),
    'model.fusion',
  ),
  Combination(
    'esanet of one stage too few in the decoder',
    _toy(lambda: _scene(widths=(6, 6))),
    'model',
    _scenes(),
  ),
  Combination(
    'esanet whose main modality it lacks',
    _toy(lambda: _scene(main='thermal')),
    'main=',
    _scenes(),
  ),
  Combination(
    'esanet on images that do not halve',
    _toy(lambda: _scene()),
    'multiples of',
    _scenes(
      modalities={
        'depth': toys.ModalitySpec((20, 20, 1)),
        'rgb': toys.ModalitySpec((20, 20, 3)),
      }
    ),
  ),
  Combination(
    'mmtm with stages that differ',
    _toy(
      dict(
        name='mmtm',
        encoders=dict(depth=_resnet(), rgb=_resnet(blocks=(1,), widths=(4,))),
        head=toys.mlp(),
        transfer_after=(1,),
      )
    ),
    'encoders',
    _pictures,
  ),
  Combination(
    'mmtm transfer behind no stage',
    _toy(lambda: toys.MODELS['mmtm'] | {'transfer_after': (4,)}),
    'transfer_after',
    _pictures,
  ),
  Combination(
    'gated stages over a network of one stream',
    _toy(
      lambda: (
        toys.MODELS['gated_stages']
        | {'network': _scene(encoders=dict(rgb=_resnet(widths=(4, 5))))}
      )
    ),
    'model.network',
    _scenes(),
  ),
  Combination(
    'gated stages over another model',
    _toy(
      lambda: toys.MODELS['gated_stages'] | {'network': toys.unimodal('rgb')},
    ),
    'model.network',
    _scenes(),
  ),
  Combination(
    'head without a layer',
    _toy(lambda: toys.joint() | {'head': dict(name='identity')}),
    'model.head',
  ),
  # Tasks and data.
  Combination(
    'segmentation model on vectors',
    _toy(lambda: _scene(encoders=dict(text=_resnet()))),
    'model',
  ),
  Combination('segmentation model, other modalities', _toy(toys.esanet), "'rgb'"),
  Combination(
    'classifier on segmentation',
    _toy(toys.unimodal('rgb', dict(name='lenet', blocks=1))),
    'main: ',
    _scenes(),
  ),
  Combination(
    'votes of a regression weighed by energy',
    _toy(lambda: votes('energy_weighted')),
    'model.fusion',
    _regression,
  ),
  Combination(
    'confidence of a regression',
    _toy(lambda: toys.MODELS['gated_mixture-cascade']),
    'gate_inputs',
    _regression,
  ),
  Combination(
    'encoder of no modality',
    _toy(lambda: toys.joint() | {'encoders': dict(smell=toys.mlp(features=2))}),
    "'smell'",
  ),
  Combination('unimodal of no modality', _toy(toys.unimodal('smell')), "'smell'"),
  Combination(
    'early fusion of no modality',
    _toy(toys.MODELS['early_fusion'] | {'modalities': ('text', 'smell')}),
    "'smell'",
  ),
  Combination(
    'early fusion of nothing',
    _toy(toys.MODELS['early_fusion'] | {'modalities': ()}),
    'model',
  ),
  Combination(
    'feature fusion of nothing', _toy(lambda: toys.joint() | {'encoders': {}}), 'model'
  ),
  Combination(
    'gate reads no modality', _toy(toys.gated(_GATED['experts'], 'smell')), "'smell'"
  ),
  Combination(
    'gate reads nothing', _toy(_GATED | {'gate_inputs': ()}), 'model.gate_inputs'
  ),
  Combination(
    'gate reads no expert',
    _toy(_GATED | {'gate_inputs': ('logits/smell',)}),
    'model.gate_inputs',
  ),
  Combination(
    'examples lack a modality that the model needs',
    _toy(toys.unimodal('image')),
    'lack a modality',
    _absent,
  ),
  # Experts, warm-up and variables to start with.
  Combination('paths without experts', _toy(_GATED | {'experts': {}}), 'model.experts'),
  Combination(
    'path that is no expert', _toy(_GATED | {'paths': ('x',)}), 'model.paths'
  ),
  Combination(
    'path whose expert is not trained',
    _stages(_drop('experts', 'text')),
    'model.paths',
  ),
  Combination('expert that is no path', _stages(_add_expert), 'model.paths'),
  Combination(
    'experts trained and not used',
    _stages(lambda c: c.update(model=ConfigDict(_GATED))),
    'experts',
  ),
  Combination(
    'two warm-ups',
    lambda: (
      toys.config(toys.unimodal('text')).to_dict()
      | {'warm_up': {n: toys.stages().experts.text.to_dict() for n in 'ab'}}
    ),
    'warm_up',
  ),
  Combination('warm-up named as an expert', _stages(_warm('text')), 'warm_up'),
  Combination('warm-up of another model', _stages(_warm('first')), 'warm it up'),
  Combination('stage named main', _stages(_warm('main')), 'main'),
  Combination('stage named as no folder', _stages(_warm('a/b')), "'a/b'"),
  Combination(
    'pretrained folder absent', _toy(pretrained__model='/nowhere'), 'pretrained'
  ),
  Combination(
    'pretrained of no part',
    lambda: _toy()() | {'pretrained': {'model': '', 'smell': '/nowhere'}},
    'pretrained.smell',
  ),
  Combination(
    'warm-up and pretrained',
    _stages(_warm('first'), pretrained__model='/nowhere'),
    'pretrained',
  ),
  Combination('holdout without experts', _toy(holdout=0.2), 'holdout'),
  Combination('freeze=compat without experts', _toy(freeze='compat'), 'freeze'),
  Combination(
    'expert_scale without experts', _toy(optimizer__expert_scale=0.5), 'scale'
  ),
  Combination(
    'missing_rate of frozen experts', _stages(missing_rate=0.1), 'missing_rate'
  ),
  Combination(
    'missing_rate of a model that needs all', _toy(missing_rate=0.1), 'missing_rate'
  ),
  Combination(
    'holdout that leaves less than a batch', _stages(holdout=0.9), 'batch_size'
  ),
  # The objective.
  *(
    Combination(
      f'loss.{term} without what it needs', _toy(**{f'loss__{term}': 1.0}), at
    )
    for term, at in {
      'per_expert': "'per_expert'",
      'budget': 'loss.budget',
      'balance': 'loss.balance',
      'informativeness': "'informativeness'",
      'confidence': "'confidence'",
      'rank': 'loss.rank',
      'evidential': "'evidential'",
      'jacobian': "'jacobian'",
      'side_outputs': 'side_outputs',
    }.items()
  ),
  Combination('no loss at all', _toy(loss__supervised=0.0), 'loss'),
  Combination('no loss of a gate', _toy(_GATED, loss__supervised=0.0), 'loss'),
  Combination(
    'rank of weights that do not learn',
    _toy(lambda: votes('average'), loss__rank=1.0),
    'loss.rank',
  ),
  Combination(
    'weight of no expert',
    lambda: (
      _toy(_GATED, loss__per_expert=1.0)()
      | {
        'loss': _toy(_GATED, loss__per_expert=1.0)()['loss']
        | {'expert_weights': {'x': 1}}
      }
    ),
    'expert_weights',
  ),
  Combination(
    'schedule of a term without weight',
    lambda: (
      (c := _toy()())
      | {'loss': c['loss'] | {'schedules': {'budget': _linear.to_dict()}}}
    ),
    'loss.schedules.budget',
  ),
  Combination(
    'budget_unit=original without paths',
    _toy(loss__budget_unit='original'),
    'budget_unit',
  ),
  Combination('budget_free without paths', _toy(loss__budget_free=0.5), 'budget_free'),
  Combination('select of another task', _toy(select='miou'), 'select'),
  # Schedules and optimiser.
  Combination(
    'temperature ends at 0',
    _toy(_GATED, gate__temperature=base.schedule(1.0, 0.0, name='linear')),
    'gate.temperature.end_value',
  ),
  Combination(
    'temperature warms up from 0',
    _toy(_GATED, gate__temperature=base.schedule(1.0, warmup=1)),
    'gate.temperature.warmup',
  ),
  Combination(
    'temperature on one cycle',
    _toy(_GATED, gate__temperature=base.schedule(1.0, name='one_cycle')),
    'gate.temperature.name',
  ),
  Combination(
    'exponential to 0',
    _toy(optimizer__learning_rate=base.schedule(1.0, 0.0, name='exponential')),
    'optimizer.learning_rate',
  ),
  Combination(
    'warm-up longer than training',
    _toy(optimizer__learning_rate=base.schedule(1.0, warmup=5)),
    'optimizer.learning_rate.warmup',
  ),
  Combination(
    'one cycle with a warm-up',
    _toy(optimizer__learning_rate=base.schedule(1.0, name='one_cycle', warmup=1)),
    'optimizer.learning_rate.warmup',
  ),
  Combination(
    'cycling momentum of adamw',
    _toy(optimizer__cycle_momentum='compat'),
    'cycle_momentum',
  ),
  Combination('momentum of adamw', _toy(optimizer__momentum=0.9), 'optimizer.momentum'),
  Combination(
    'nesterov of adamw', _toy(optimizer__nesterov=True), 'optimizer.nesterov'
  ),
  # Devices, feeds and sizes.
  *(
    Combination(
      f'batch that does not divide, {parallel}',
      _toy(toys.unimodal('text'), parallel=parallel, batch_size=9),
      'batch_size=9',
    )
    for parallel in ('auto', 'pmap', 'shard_map')
    if jax.device_count() > 1
  ),
  *(
    Combination(
      'released attention on several devices',
      _toy(
        lambda: _fused('masked_attention', query='text', released=True),
        parallel=parallel,
      ),
      'model.fusion',
    )
    for parallel in ('shard_map',)
    if jax.device_count() > 1
  ),
  Combination(
    'batch larger than the training split', _toy(batch_size=45), 'batch_size=45'
  ),
  Combination(
    'batch of one with BatchNorm',
    _toy(toys.MODELS['unimodal'], batch_size=1),
    'at least two',
  ),
  Combination(
    'feed=device of augmented examples', _toy(feed='device'), 'feed', _augmented
  ),
  Combination('frozen experts of augmented examples', _stages(), 'freeze', _augmented),
  Combination(
    'a group of keys for a number of the dataset',
    _with_data(split_seed={}),
    'data.split_seed={} must be',
  ),
  Combination('last seed too great', _toy(seed=2**31 - 1, num_seeds=2), 'seed'),
)


def tried(combination: Combination) -> str:
  """What is wrong with how a combination is refused; empty if nothing is."""
  found = outcome(combination.make(), combination.data())
  if found.problem or not found.message:
    return found.problem or 'accepted'
  return '' if combination.says in found.message else f'no key: {found.message}'


# Config files, as the command line changes them.

FILES = sorted(
  path.stem for path in Path(base.__file__).parent.glob('*.py') if path.stem != 'base'
)


_BUILT = ('data.', 'experts.', 'model.', 'warm_up.')
"""What is inside models and datasets is for `build`, which is tried above."""


def of_file(name: str) -> Iterator[tuple[Mutation, str]]:
  """Unknown keys and wrong types of what the schema checks, and what is wrong."""
  config = importlib.import_module(f'configs.{name}').get_config().lock()
  plain = config.to_dict()
  check_run(plain)
  check_stage('main', plain, main=True)
  for mutation in mutations(plain):
    if mutation.fault == 'unknown key':
      yield mutation, _override(config, mutation)
    elif mutation.fault == 'wrong type' and not mutation.key.startswith(_BUILT):
      yield mutation, _checked(mutation, mutation.apply(plain))


def _override(config: ConfigDict, mutation: Mutation) -> str:
  try:
    config.update_from_flattened_dict({mutation.key: mutation.value})
  except (AttributeError, KeyError, TypeError) as error:
    return '' if mutation.key.split('.')[-1] in str(error) else f'no key: {error}'
  return 'accepted'


def _checked(mutation: Mutation, config: Mapping[str, Any]) -> str:
  try:
    check_run(config)
    check_stage('main', config, main=True)
  except build.ConfigError as error:
    return '' if names_key(str(error), mutation.key) else f'no key: {error}'
  return 'accepted'


def add_arguments(parser) -> None:
  """Of the long run: everything, or a share drawn by chance."""
  parser.add_argument(
    '--config-share', type=float, default=1.0, help='of the mutations that are tried'
  )
  parser.add_argument('--accepted', type=Path, help='list what was accepted here')


def run(options) -> Iterator[Row]:
  """One row per kind of fault."""
  chance = random.Random(options.seed)
  tally: dict[str, list[str]] = {}
  accepted: list[str] = []
  for name, (config, dataset) in families().items():
    found = of_family(name, config)
    chosen = [m for m in found if chance.random() < options.config_share]
    print(f'configs: {name}: {len(chosen)} mutations', file=sys.stderr, flush=True)
    for mutation in chosen:
      seen = outcome(mutation.apply(config), dataset)
      what = f'{name}: {mutation.key}={mutation.value!r}'
      problem = problem_of(mutation, seen)
      if not problem and not seen.message:
        accepted.append(what)
      tally.setdefault(mutation.fault, []).append(_about(what, problem))
  for fault, problems in tally.items():
    yield _row(fault, problems, 'every key of a small config of each kind of model')
  if options.accepted:
    options.accepted.write_text('\n'.join(accepted))
  combined = [_about(each.what, tried(each)) for each in COMBINATIONS]
  yield _row('impossible combination', combined, '')
  of_files = [
    _about(f'{name}: {mutation.key}={mutation.value!r}', problem)
    for name in FILES
    for mutation, problem in of_file(name)
  ]
  yield _row('keys of configs/*.py', of_files, f'{len(FILES)} files')


def _about(what: str, problem: str) -> str:
  return problem and f'{what}: {problem}'


def _row(fault: str, problems: Sequence[str], note: str) -> Row:
  lost = [problem for problem in problems if problem]
  for problem in lost:
    print(f'configs: {fault}: {problem}', file=sys.stderr, flush=True)
  note = lost[0][:120] if lost else note
  return Row(
    'configs', fault, len(problems), len(problems) - len(lost), len(lost), note
  )
