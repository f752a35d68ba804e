"""ImageNet weights for our `ResNet`: torchvision's, and ESANet's of its own blocks.

Both are classifiers. ESANet's checkpoints (`r18_NBt1D.pth`, `r34_NBt1D.pth`) hold the
network as `encoder`, beside a linear layer and an optimizer's state. The original reads
them with `strict=False`, though nothing but the linear layer is there to be left over;
here every tensor has to find its place.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from jdyn.interop.esanet import places
from jdyn.interop.state_dict import read_params, read_state_dict

_CLASSIFIER = ('fc.weight', 'fc.bias')
_FIRST = ('params', 'first', 'conv', 'kernel')
_COLORS = 3


def read(path: Path, template: Mapping[str, Any]) -> dict[str, Any]:
  """Variables of a `ResNet`.

  For images of one channel the first kernel is summed over the colors: a gray image
  gives what it gave as a colored one. ESANet's depth encoders start so.

  Args:
    path: of the checkpoint, or of a state dict alone.
    template: variables of our encoder, or their shapes.

  Raises:
    DataError: the file is damaged, or of another network than `template`.
  """
  tensors = _encoder(read_state_dict(path))
  wanted = flatten_dict(template)
  height, width, channels, features = wanted[_FIRST].shape
  if channels != 1:
    return read_params(path, tensors, places(template), template)
  colored = (height, width, _COLORS, features)
  wanted[_FIRST] = jax.ShapeDtypeStruct(colored, wanted[_FIRST].dtype)
  template = unflatten_dict(wanted)
  found = flatten_dict(read_params(path, tensors, places(template), template))
  found[_FIRST] = found[_FIRST].sum(axis=2, keepdims=True)
  return unflatten_dict(found)


def _encoder(tensors: Mapping[str, Any]) -> dict[str, Any]:
  """Those of the network without its classifier, by their names in it."""
  found = {name: x for name, x in tensors.items() if name not in _CLASSIFIER}
  if all(str(name).startswith('encoder.') for name in found):
    found = {name.removeprefix('encoder.'): x for name, x in found.items()}
  return found
