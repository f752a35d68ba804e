"""From the tensors of a PyTorch module to the variables of one of ours."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jdyn.data.dataset import DataError
from jdyn.data.files import brief
from jdyn.interop.torch_file import read_torch

Place = tuple[str, ...]
"""Keys of a variable, from the outermost dict inwards."""

_LISTED = 10


def read_state_dict(path: Path) -> dict[str, Any]:
  """The tensors of a file of `torch.save`, by their names.

  Of a checkpoint that has more than these, its `state_dict` is read. BatchNorm's
  counters of batches are left out, since no network here ever looks at them.

  Raises:
    DataError: the file is absent or damaged, or holds something else.
  """
  found = read_torch(path)
  if isinstance(found, dict):
    found = found.get('state_dict', found)
  if not isinstance(found, dict):
    raise DataError(f'{path}: holds a {type(found).__name__}, and no state dict.')
  tensors = {
    str(name): tensor
    for name, tensor in found.items()
    if not str(name).endswith('num_batches_tracked')
  }
  for name, tensor in tensors.items():
    if not isinstance(tensor, np.ndarray):
      kind = type(tensor).__name__
      raise DataError(f'{path}: {name!r:.80} is a {kind}, and no tensor.')
  return tensors


def linear(name: str, *module: str) -> dict[str, Place]:
  """Where the tensors of a linear layer belong, by their names."""
  return {f'{name}.weight': (*module, 'kernel'), f'{name}.bias': (*module, 'bias')}


def read_params(
  path: Path,
  tensors: Mapping[str, Any],
  places: Mapping[str, Place],
  template: Mapping[str, Any],
) -> dict[str, Any]:
  """Parameters, or all variables, from the tensors of a state dict, one to one.

  Args:
    path: of the file, for errors.
    tensors: what it holds.
    places: of each tensor among our variables.
    template: our variables, or their shapes.

  Raises:
    DataError: a tensor or variable is missing, left over or of another shape; the
      message names them.
  """
  wanted = flatten_dict(template)
  _check_same(
    f'{path} and the config are of different models',
    {'the converter': places.values(), 'the config': wanted},
  )
  _check_same(
    f'{path} is of another model', {"the config's model": places, 'the file': tensors}
  )
  wrong = []
  for name, place in places.items():
    have, fitting = np.shape(tensors[name]), _fitting(place, wanted[place].shape)
    if have not in fitting:
      wrong.append(f'{brief(name)} is {list(have)} and not {list(fitting[0])}')
  if wrong:
    raise DataError(
      f"{path}: other widths than the config's: {_some(wrong)}. Change the config's."
    )
  return take(tensors, places, template)


def take(
  tensors: Mapping[str, Any], places: Mapping[str, Place], template: Mapping[str, Any]
) -> dict[str, Any]:
  """The same without a check; tensors without a place are left alone.

  A `kernel` changes its layout: PyTorch's linear layers hold `[out, in]` and its
  convolutions `[out, in, height, width]`, those of one pixel also where we have a
  linear layer.
  """
  ranks = {place: len(leaf.shape) for place, leaf in flatten_dict(template).items()}

  def ours(name: str, place: Place):
    tensor, rank = tensors[name], ranks[place]
    if place[-1] != 'kernel':
      return tensor
    tensor = tensor[..., 0, 0] if tensor.ndim > rank else tensor
    return tensor.transpose(*range(2, rank), 1, 0)

  return unflatten_dict({place: ours(name, place) for name, place in places.items()})


def _fitting(place: Place, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
  """Shapes that a tensor for a variable of this shape may have."""
  if place[-1] != 'kernel':
    return [shape]
  *window, inputs, outputs = shape
  flat = (outputs, inputs)
  return [(*flat, *window)] if window else [flat, (*flat, 1, 1)]


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
  return '/'.join(name) if isinstance(name, tuple) else brief(str(name))


def _some(names: list[str]) -> str:
  more = len(names) - _LISTED
  return ', '.join(names[:_LISTED]) + (f' and {more} more' if more > 0 else '')
