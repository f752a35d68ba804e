"""From the tensors of a PyTorch module to the parameters of one of ours."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jdyn.data.dataset import DataError

Place = tuple[str, ...]
"""Keys of a parameter, from the outermost dict inwards."""

_LISTED = 5


def linear(name: str, *module: str) -> dict[str, Place]:
  """Where the tensors of a linear layer belong, by their names."""
  return {f'{name}.weight': (*module, 'kernel'), f'{name}.bias': (*module, 'bias')}


def read_params(
  path: Path, tensors: Any, places: Mapping[str, Place], template: Mapping[str, Any]
) -> dict[str, Any]:
  """Parameters from the tensors of a state dict, one to one.

  Args:
    path: of the file, for errors.
    tensors: what it holds.
    places: of each tensor among our parameters. One for a `kernel` is transposed,
      since PyTorch's linear layers hold `[out, in]`.
    template: our parameters, or their shapes.

  Raises:
    DataError: a tensor or parameter is missing, left over or of another shape; the
      message names them.
  """
  wanted = flatten_dict(template)
  _check_same(
    f'{path} and the config are of different models',
    {'the converter': places.values(), 'the config': wanted},
  )
  if not isinstance(tensors, dict):
    raise DataError(f'{path}: holds a {type(tensors).__name__}, and no state dict.')
  _check_same(
    f'{path} is of another model', {'the converter': places, 'the file': tensors}
  )
  found, wrong = {}, []
  for name, place in places.items():
    turned = place[-1] == 'kernel'
    have, want = np.shape(tensors[name]), wanted[place].shape[:: -1 if turned else 1]
    if have != want:
      wrong.append(f'{name} is {list(have)} and not {list(want)}')
    found[place] = tensors[name].T if turned else tensors[name]
  if wrong:
    raise DataError(
      f"{path}: other widths than the config's: {_some(wrong)}. Change the config's."
    )
  return unflatten_dict(found)


def _check_same(problem: str, names: Mapping[str, Iterable[Any]]) -> None:
  """Raises DataError with what only one of two sides names."""
  sides = {side: set(found) for side, found in names.items()}
  first, second = sides.values()
  if first != second:
    only = [
      f'only {side} has {_some(sorted(map(_text, own - other)))}'
      for (side, own), other in zip(sides.items(), (second, first), strict=True)
      if own - other
    ]
    raise DataError(f'{problem}: {"; ".join(only)}. Give the other file or config.')


def _text(name: Any) -> str:
  return '/'.join(name) if isinstance(name, tuple) else str(name)


def _some(names: list[str]) -> str:
  more = len(names) - _LISTED
  return ', '.join(names[:_LISTED]) + (f' and {more} more' if more > 0 else '')
