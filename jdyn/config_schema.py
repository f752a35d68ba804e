"""What every key of a config may hold: its type, its range, its choices.

`check_run` and `check_stage` take the plain dicts of a config and know all of their
keys; what a key holds in the company of others is for `build` to judge. The options of
an entry (`{'name': 'mlp', ...}`) are the fields of the class of that name: their types
are its annotations, and their ranges are here, by the name of the option, since a name
means the same wherever it stands.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal

import flax.linen as nn

from jdyn.losses import LOSSES


class ConfigError(ValueError):
  """A config that cannot run; the message names the key and the remedy."""


Check = Callable[[str, Any], None]
"""Takes a key and its value; raises ConfigError."""


@dataclasses.dataclass(frozen=True)
class Number:
  """A finite number between bounds.

  Attributes:
    low: the least.
    high: the greatest.
    whole: no fractions, and no floats.
    above: `low` itself is too little.
    below: `high` itself is too much.
  """

  low: float = -math.inf
  high: float = math.inf
  whole: bool = False
  above: bool = False
  below: bool = False

  def __call__(self, key: str, value: Any) -> None:
    """Raises ConfigError."""
    kind = Integral if self.whole else Real
    if isinstance(value, bool) or not isinstance(value, kind):
      name = 'whole number' if self.whole else 'number'
      raise ConfigError(f'{key}={value!r} must be a {name}.')
    if not math.isfinite(value):
      raise ConfigError(f'{key}={value!r} must be finite.')
    low = value > self.low if self.above else value >= self.low
    high = value < self.high if self.below else value <= self.high
    if not (low and high):
      raise ConfigError(f'{key}={value!r} must {self._range(low)}.')

  def _range(self, low: bool) -> str:
    if not self.whole and math.isfinite(self.low) and math.isfinite(self.high):
      ends = '(' if self.above else '[', ')' if self.below else ']'
      return f'lie in {ends[0]}{self.low}, {self.high}{ends[1]}'
    if low:
      return f'be {"less than" if self.below else "at most"} {self.high}'
    return f'be {"greater than" if self.above else "at least"} {self.low}'


@dataclasses.dataclass(frozen=True)
class OneOf:
  """One of some names."""

  choices: Sequence[str]

  def __call__(self, key: str, value: Any) -> None:
    """Raises ConfigError."""
    if not isinstance(value, str) or value not in self.choices:
      raise ConfigError(f'{key}={value!r}; expected one of {sorted(self.choices)}.')


@dataclasses.dataclass(frozen=True)
class Listed:
  """A list.

  Attributes:
    item: what each item must be.
    size: how many there must be; None for any number.
    least: how many there must be at least.
  """

  item: Check
  size: int | None = None
  least: int = 0

  def __call__(self, key: str, value: Any) -> None:
    """Raises ConfigError."""
    if not isinstance(value, (tuple, list)):
      raise ConfigError(f'{key}={value!r} must be a list, such as (1, 2).')
    if self.size is not None and len(value) != self.size:
      raise ConfigError(f'{key}={value!r} must be a list of {self.size}.')
    if len(value) < self.least:
      raise ConfigError(f'{key}={value!r} must be a list of {self.least} at least.')
    for i, item in enumerate(value):
      self.item(f'{key}[{i}]', item)


@dataclasses.dataclass(frozen=True)
class Keys:
  """A group of keys, all of them known and none left out."""

  checks: Mapping[str, Check]

  def __call__(self, key: str, value: Any) -> None:
    """Raises ConfigError."""
    check_group(key, value)
    for name in value:
      if name not in self.checks:
        raise unknown(below(key, name), name, self.checks)
    for name, check in self.checks.items():
      if name not in value:
        raise ConfigError(
          f'{below(key, name)} is missing; configs/base.py has its default.'
        )
      check(below(key, name), value[name])


@dataclasses.dataclass(frozen=True)
class Named:
  """A group whose keys are names: of modalities, experts, or some `choices`."""

  check: Check
  choices: Sequence[str] | None = None

  def __call__(self, key: str, value: Any) -> None:
    """Raises ConfigError."""
    check_group(key, value)
    for name, item in value.items():
      if self.choices is not None and name not in self.choices:
        raise unknown(below(key, name), name, self.choices)
      self.check(below(key, name), item)


def text(key: str, value: Any) -> None:
  """Checks that it is text."""
  if not isinstance(value, str):
    raise ConfigError(f'{key}={value!r} must be text.')


def flag(key: str, value: Any) -> None:
  """Checks that it is True or False."""
  if not isinstance(value, bool):
    raise ConfigError(f'{key}={value!r} must be True or False.')


def anything(key: str, value: Any) -> None:
  """Leaves the judgement to others."""


def check_group(key: str, value: Any) -> None:
  """Checks that there are keys below a key."""
  if not isinstance(value, Mapping):
    raise ConfigError(f'{key}={value!r} must be a group of keys, and is a value.')


def below(key: str, name: str) -> str:
  """The key of a name in the group `key`; a stage's own stands behind a colon."""
  return f'{key}{name}' if not key or key.endswith(': ') else f'{key}.{name}'


def unknown(key: str, name: str, known: Sequence[str]) -> ConfigError:
  """The error for a name that is none of those known."""
  close = difflib.get_close_matches(name, known, 1, cutoff=0.4)
  hint = f' Did you mean {close[0]!r}?' if close else ''
  return ConfigError(f'{key} is unknown; expected one of {sorted(known)}.{hint}')


_COUNT = Number(1, 1000, whole=True)  # Of what is written out in the program.
_SIZE = Number(1, 2**20, whole=True)
_STEPS = Number(1, 2**31 - 1, whole=True)
_SHARE = Number(0, 1, above=True, below=True)
_RATE = Number(0, 1, below=True)
_POSITIVE = Number(0, above=True)
_AT_LEAST_0 = Number(0)
_EPOCHS = Number(0, 10**6)
_SEED = Number(0, 2**31, whole=True, below=True)

_OPTIONS: Mapping[str, Number] = {
  **dict.fromkeys(
    (
      *('features', 'feedforward', 'hidden', 'widths', 'width', 'height', 'channels'),
      *('image_size', 'max_length', 'positions', 'trained_size', 'rank', 'groups'),
      *('project', 'ratio', 'num_classes', 'slots'),
    ),
    _SIZE,
  ),
  **dict.fromkeys(
    (
      *('blocks', 'heads', 'pieces', 'layers', 'memory_layers', 'pool', 'bins', 'size'),
      *('transfer_after', 'history', 'max_steps', 'adjoint_steps', 'jacobian_probes'),
    ),
    _COUNT,
  ),
  **dict.fromkeys(
    (
      *('dropout', 'attention_dropout', 'cross_dropout', 'hidden_dropout'),
      *('residual_dropout', 'embedding_dropout', 'output_dropout'),
    ),
    _RATE,
  ),
  **dict.fromkeys(('valid_fraction', 'test_fraction'), _SHARE),
  **dict.fromkeys(
    ('epsilon', 'input_epsilon', 'state_scale', 'temperature'), _POSITIVE
  ),
  **dict.fromkeys(('tol', 'adjoint_tol', 'scale'), _POSITIVE),
  **dict.fromkeys(('damping', 'jacobian_share'), Number(0, 1, above=True)),
  'clip': Number(),
  'split_seed': _SEED,
}
"""Ranges of numbers by the name of the option. 0 besides, where it is the default."""

_NOT_EMPTY = ('blocks', 'gate_inputs', 'modalities', 'paths', 'widths')

NOT_OF_A_CONFIG = frozenset(
  {'parent', 'name', 'axis_name', 'noise', 'confidence', 'num_outputs'}
)
"""Fields that are not for a config to set."""


def _by_annotation(annotation: Any, number: Number | None) -> Check:
  """What a field of this type may hold; its numbers, within the range of its name."""
  origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
  if origin is Literal:
    return OneOf(arguments)
  if origin is tuple:
    item = _by_annotation(arguments[0], number)
    return Listed(item, None if arguments[1:] == (...,) else len(arguments))
  if origin in (types.UnionType, typing.Union) and type(None) in arguments:
    inner = _by_annotation(arguments[0], number)
    return lambda key, value: None if value is None else inner(key, value)
  if annotation in (int, float):
    return dataclasses.replace(number or Number(), whole=annotation is int)
  if isinstance(origin, type) and issubclass(origin, Mapping):
    return Named(check_entry)
  if annotation is nn.Module or nn.Module in arguments:
    return check_entry
  return {str: text, bool: flag}[annotation]


def option_checks(cls: type) -> dict[str, Check]:
  """What each option of a class may hold, by the option's name."""
  hints = typing.get_type_hints(cls)
  found = {}
  for field in dataclasses.fields(cls):
    if field.name in NOT_OF_A_CONFIG:
      continue
    number = _OPTIONS.get(field.name)
    off = field.default == 0 and not isinstance(field.default, bool)
    if number and (off or field.name == 'jacobian_probes'):
      number = dataclasses.replace(number, low=0, above=False)
    check = _by_annotation(hints[field.name], number)
    if field.name in _NOT_EMPTY:
      check = (
        dataclasses.replace(check, least=1) if isinstance(check, Listed) else check
      )
    found[field.name] = check
  return found


def check_entry(key: str, value: Any) -> None:
  """Checks that it is a group of keys with a name."""
  check_group(key, value)
  if not isinstance(value.get('name'), str):
    raise ConfigError(f'{below(key, "name")} is missing: it says what this entry is.')


def check_options(
  key: str,
  kind: str,
  table: Mapping[str, type],
  entry: Any,
  given: Sequence[str] = (),
) -> type:
  """The class that an entry names, whose options it gives.

  Args:
    key: of the entry.
    kind: of what is in the table, in a word.
    table: classes by name.
    entry: the name and the options.
    given: options that need not be in the entry.

  Raises:
    ConfigError: unknown name or option, an option is missing, or none of its values.
  """
  check_entry(key, entry)
  name = entry['name']
  if name not in table:
    raise ConfigError(
      f'{below(key, "name")}: Unknown {kind} {name!r}; expected one of {sorted(table)}.'
    )
  cls = table[name]
  checks = option_checks(cls)
  for option, value in entry.items():
    if option == 'name':
      continue
    if option not in checks:
      raise ConfigError(
        f'{below(key, option)}: {kind} {name!r} has no option {option!r}; it has '
        f'{sorted(checks)}.'
      )
    checks[option](below(key, option), value)
  required = {f.name for f in dataclasses.fields(cls) if _required(f)} & set(checks)
  if missing := sorted(required - set(entry) - set(given)):
    raise ConfigError(
      f'{below(key, missing[0])} is missing; {kind} {name!r} needs {sorted(required)}.'
    )
  return cls


def _required(field: dataclasses.Field) -> bool:
  return (
    field.default is dataclasses.MISSING
    and field.default_factory is dataclasses.MISSING
  )


_RAMPS = ('constant', 'linear', 'exponential', 'staircase', 'cosine')


def _schedule(value: Number, *more: str) -> Keys:
  return Keys(
    {
      'name': OneOf((*_RAMPS, *more)),
      'init_value': value,
      'end_value': value,
      'epochs': _EPOCHS,
      'warmup': _EPOCHS,
    }
  )


def _stages(key: str, value: Any) -> None:
  """Stages by name; each is checked when it is built."""
  check_group(key, value)
  for name, stage in value.items():
    check_group(below(key, name), stage)


def _data(key: str, value: Any) -> None:
  """A dataset, whose options are checked when it is built."""
  check_entry(key, value)
  if 'root' not in value:
    raise ConfigError(f"{key}.root is missing; '' stands for the stand-in.")
  text(f'{key}.root', value['root'])


_STAGE: Mapping[str, Check] = {
  'model': check_entry,
  'experts': _stages,
  'warm_up': _stages,
  'pretrained': Named(text),
  'freeze': OneOf(('eval', 'none', 'compat')),
  'holdout': _RATE,
  'missing_rate': _RATE,
  'gate': Keys(
    {
      'mode': OneOf(('soft', 'straight_through', 'gumbel', 'gumbel_straight_through')),
      'temperature': _schedule(Number()),
      'soft_epochs': _EPOCHS,
      'evaluate': OneOf(('hard', 'as_trained')),
    }
  ),
  'loss': Keys(
    {
      **dict.fromkeys(LOSSES, _AT_LEAST_0),
      'confidence_error': OneOf(('squared', 'absolute')),
      'confidence_target': OneOf(('detached', 'compat')),
      'rank_margin': OneOf(('paper', 'repo', 'none')),
      'rank_history': OneOf(('mean', 'sum')),
      'rank_update': OneOf(('before', 'after')),
      'annealing_epochs': _STEPS,
      'schedules': Named(_schedule(_AT_LEAST_0), tuple(LOSSES)),
      'expert_weights': Named(_AT_LEAST_0),
      'budget_unit': OneOf(('macs', 'original')),
      'budget_free': _AT_LEAST_0,
    }
  ),
  'optimizer': Keys(
    {
      'name': OneOf(('adamw', 'adam', 'sgd', 'rmsprop')),
      'learning_rate': _schedule(_AT_LEAST_0, 'one_cycle'),
      'weight_decay': _AT_LEAST_0,
      'momentum': _RATE,
      'cycle_momentum': OneOf(('none', 'compat')),
      'nesterov': flag,
      'clip_norm': _AT_LEAST_0,
      'expert_scale': _AT_LEAST_0,
    }
  ),
  'batch_size': _STEPS,
  'epochs': dataclasses.replace(_EPOCHS, low=1, whole=True),
  'patience': Number(-1, whole=True),
  'select': text,
}

_RUN: Mapping[str, Check] = {
  'data': _data,
  'seed': _SEED,
  'num_seeds': _COUNT,
  'parallel': OneOf(('auto', 'jit', 'pmap', 'shard_map')),
  'feed': OneOf(('auto', 'device', 'host')),
  'device_bytes': Number(0, whole=True),
  'host_threads': _COUNT,
  'dtype': OneOf(('float32', 'bfloat16')),
  'steps_per_call': _STEPS,
  'unroll': _COUNT,
  'nonfinite': OneOf(('stop', 'skip', 'rollback')),
  'checkpoint_seconds': _AT_LEAST_0,
  'checkpoint_async': flag,
}


def check_run(config: Mapping[str, Any]) -> None:
  """Checks the keys of a run, and that it has those of a stage.

  Raises:
    ConfigError: naming the key.
  """
  Keys(_RUN | dict.fromkeys(_STAGE, anything))('', config)
  if config['seed'] + config['num_seeds'] > 2**31:
    raise ConfigError(
      f'seed={config["seed"]} and the {config["num_seeds"] - 1} seeds after it must be '
      'less than 2147483648.'
    )


def check_stage(name: str, config: Mapping[str, Any], *, main: bool) -> None:
  """Checks the keys of a stage; the main one has those of the run beside them.

  Raises:
    ConfigError: naming the stage and the key.
  """
  own = {key: value for key, value in config.items() if not main or key not in _RUN}
  Keys(_STAGE)(f'{name}: ', own)
