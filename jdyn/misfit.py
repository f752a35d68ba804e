"""A model that does not fit together, as an error that names the part at fault."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from flax.errors import FlaxError

from jdyn.config_schema import ConfigError

MISFITS = (
  *(ArithmeticError, AssertionError, AttributeError, FlaxError, LookupError),
  *(NotImplementedError, TypeError, ValueError),
)
"""What tracing such a model may end with."""


@contextlib.contextmanager
def naming(name: str, entry: Mapping[str, Any], rows: int) -> Iterator[None]:
  """What goes wrong in tracing becomes an error that names the part of the model.

  Args:
    name: of the stage.
    entry: its model's.
    rows: of the batch that is traced; if it is 1, the stage has batch_size=1.
  """
  innermost: list[tuple[tuple[str, ...], str]] = []

  def note(method, args, options, context):
    try:
      return method(*args, **options)
    except MISFITS:
      if not innermost:
        innermost.append((tuple(context.module.path), _shapes(args)))
      raise

  try:
    with nn.intercept_methods(note):
      yield
  except MISFITS as error:
    path, shapes = innermost[0] if innermost else ((), '')
    key = '.'.join((f'{name}: model', *_keys(entry, path)))
    given = f' (It was given {shapes}.)' if shapes else ''
    given += ' The stage has batch_size=1.' if rows == 1 else ''
    raise ConfigError(
      f'{key} does not fit what it is given, or what it holds: '
      f'{in_a_line(error)}{given}'
    ) from error


def _keys(entry: Any, path: Sequence[str]) -> Iterator[str]:
  """Keys of a model's entry, down to the module of that path or what it is part of."""
  for name in path:
    group, _, member = name.partition('_')
    if isinstance(entry.get(name), Mapping):
      yield name
      entry = entry[name]
    elif isinstance(entry.get(group), Mapping) and member in entry[group]:
      yield from (group, member)
      entry = entry[group][member]
    else:
      return


def _shapes(args: Sequence[Any]) -> str:
  """Shapes of the arrays among arguments, without the axis of the batch."""
  leaves = [leaf for leaf in jax.tree.leaves(args) if hasattr(leaf, 'shape')]
  return ', '.join(str(leaf.shape[1:]) for leaf in leaves[:4])


def in_a_line(error: Exception) -> str:
  """What an error says, in a line."""
  text = str(error).strip() or type(error).__name__
  return ' '.join(text.split('\n\n')[0].split())
