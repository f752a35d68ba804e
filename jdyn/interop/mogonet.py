"""MOGONET's published networks (`ROSMAP/models/<run>/`, `BRCA/models/<run>/`).

Per view there are a graph convolutional encoder `E<i>` and a linear classifier `C<i>`,
and one network `C` for the outer product of the classifiers' predictions. They are
read and checked; the networks themselves are no part of this library.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jdyn.data.dataset import DataError
from jdyn.data.files import brief
from jdyn.interop.torch_file import read_torch

Shapes = Mapping[str, tuple[int, ...]]


def read_networks(folder: Path, views: int = 3) -> dict[str, dict[str, np.ndarray]]:
  """The tensors of every network of one run, `{network: {name: array}}`.

  Linear layers hold `[out, in]`, graph convolutions `[in, out]`.

  Args:
    folder: of the run, with `E1.pth`, `C1.pth`, ..., `C.pth`.
    views: how many encoders there are.

  Raises:
    DataError: a file is missing or damaged, or its tensors do not fit the others.
  """
  names = [*(f'{kind}{i + 1}' for i in range(views) for kind in 'EC'), 'C']
  found = {name: read_torch(folder / f'{name}.pth') for name in names}
  shapes = {name: _shapes(tensors) for name, tensors in found.items()}
  for name, want in _expected(shapes, views).items():
    if shapes[name] != want:
      raise DataError(
        f'{folder / name}.pth: tensors of shapes {brief(shapes[name])}, where {want} '
        'fits the other files. Take all files from one run.'
      )
  return found


def _shapes(tensors: object) -> Shapes:
  named = tensors if isinstance(tensors, dict) else {'': tensors}
  # Of other things the shape is not asked, which would walk through them.
  return {
    name: value.shape if isinstance(value, np.ndarray) else (type(value).__name__,)
    for name, value in named.items()
  }


def _expected(shapes: Mapping[str, Shapes], views: int) -> dict[str, Shapes]:
  """The shapes that every network must have, given its widths and those of `C`."""
  classes = _size(shapes['C'], 'model.2.bias')
  joint = classes**views
  want = {'C': _linear('model.0', joint, joint) | _linear('model.2', joint, classes)}
  for i in range(1, views + 1):
    width = _size(shapes[f'E{i}'], 'gc1.weight')
    want[f'E{i}'] = {}
    for layer in ('gc1', 'gc2', 'gc3'):
      after = _size(shapes[f'E{i}'], f'{layer}.bias')
      want[f'E{i}'] |= {f'{layer}.weight': (width, after), f'{layer}.bias': (after,)}
      width = after
    want[f'C{i}'] = _linear('clf.0', width, classes)
  return want


def _size(shapes: Shapes, name: str) -> int:
  """Of the first axis; 0 if there is none."""
  return (*shapes.get(name, ()), 0)[0]


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
  return {f'{name}.weight': (outputs, inputs), f'{name}.bias': (outputs,)}
