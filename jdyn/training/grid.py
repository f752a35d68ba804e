"""The grid of a sweep: from `loss.budget=0,.05` to one config per point.

Nothing here needs JAX, so that a mistyped sweep is refused at once.
"""

import dataclasses
import difflib
import itertools
import math
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from jdyn.evaluators.tables import label

Axes = Mapping[str, tuple[Any, ...]]
"""Values by dotted key of the config, in the order in which they are varied."""

_MAX_NAME = 255
"""Bytes that common file systems allow in the name of a folder."""

_BOOLS = {'true': True, 'false': False, '1': True, '0': False}


class GridError(ValueError):
  """A sweep that cannot be; the message names the key."""


@dataclasses.dataclass(frozen=True)
class Variant:
  """One point of the grid.

  Attributes:
    name: of its folder, such as `loss.budget=0.05`.
    settings: value by swept key.
    config: with these values in place.
  """

  name: str
  settings: Mapping[str, Any]
  config: ConfigDict


def parse(config: ConfigDict, arguments: Sequence[str]) -> Axes:
  """Reads `key=value,value,...` arguments, with the types that `config` has.

  Raises:
    GridError: an unknown key, or a value that the key cannot have.
  """
  axes: dict[str, tuple[Any, ...]] = {}
  for argument in arguments:
    key, equals, text = argument.partition('=')
    if key == 'num_seeds':
      raise GridError('num_seeds cannot be swept; every variant has the same --seeds.')
    if not equals:
      raise GridError(f'{key}: give the values to sweep, as in {key}=VALUE,VALUE.')
    if key in axes:
      raise GridError(f'{key} is swept twice; give all its values at once.')
    default = _find(config, key)
    values = tuple(_value(key, default, part.strip()) for part in text.split(','))
    if len(set(values)) < len(values):
      raise GridError(f'{key}={text} has the same value twice.')
    axes[key] = values
  if not axes:
    raise GridError('Nothing to sweep; give --sweep.config.KEY=VALUE,VALUE.')
  _name({key: max(values, key=lambda v: len(_text(v))) for key, values in axes.items()})
  return axes


def variants(config: ConfigDict, axes: Axes) -> list[Variant]:
  """All combinations of the values; the last key varies fastest.

  Raises:
    GridError: the name of a variant would be too long for a folder.
  """
  found = []
  for values in itertools.product(*axes.values()):
    settings = dict(zip(axes, values, strict=True))
    own = config.copy_and_resolve_references()
    own.update_from_flattened_dict(settings)
    found.append(Variant(_name(settings), settings, own))
  return found


def _name(settings: Mapping[str, Any]) -> str:
  """Of the folder of a variant."""
  name = ','.join(f'{key}={_text(value)}' for key, value in settings.items())
  if len(name) > _MAX_NAME:
    raise GridError(
      f'{", ".join(settings)}: the name of a variant is of {len(name)} characters, and '
      f'that of a folder may have {_MAX_NAME}. Sweep fewer keys at once, and set the '
      'others with --config.KEY=VALUE in sweeps of their own.'
    )
  return name


def _text(value: Any) -> str:
  """A value as part of a folder's name."""
  return urllib.parse.quote(label(value), safe='+')


def _find(config: ConfigDict, key: str) -> Any:
  """What the config has under a dotted key."""
  found: Any = config
  parts = key.split('.')
  for depth, part in enumerate(parts):
    if not isinstance(found, ConfigDict):
      raise GridError(f'{key}: {".".join(parts[:depth])} has no keys below it.')
    if part not in found:
      close = difflib.get_close_matches(part, list(found), 1, cutoff=0.0)
      nearest = '.'.join([*parts[:depth], *close])
      raise GridError(f'Unknown key {key}. Did you mean "{nearest}"?')
    found = found[part]
  return found


def _value(key: str, default: Any, text: str) -> Any:
  """`text` in the type of what the config has."""
  if isinstance(default, ConfigDict):
    raise GridError(f'{key} holds keys and no value; it has {sorted(default)}.')
  if isinstance(default, bool):
    if text.lower() not in _BOOLS:
      raise GridError(f'{key}={text!r} must be true or false.')
    return _BOOLS[text.lower()]
  if isinstance(default, str):
    return text
  if not isinstance(default, int | float):
    kind = type(default).__name__
    raise GridError(f'{key} is a {kind}; numbers, strings and booleans can be swept.')
  kind = 'a whole number' if isinstance(default, int) else 'a finite number'
  try:
    value = type(default)(text)
  except ValueError as error:
    raise GridError(f'{key}={text!r} must be {kind}.') from error
  if not math.isfinite(value):
    raise GridError(f'{key}={text!r} must be {kind}.')
  return value
