"""Checkpoints of DEQ fusion's omics experiment (`<name>_best.pt` of its BRCA code)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jdyn.interop import mm_dynamics
from jdyn.interop.state_dict import Place, linear, read_params, read_state_dict


def convert(
  path: Path, template: Mapping[str, Any], views: Sequence[str] = mm_dynamics.VIEWS
) -> dict[str, Any]:
  """Variables of a `feature_fusion` with `mm_dynamics` on raw views.

  The fusion inside is `equilibrium_released(weighted=False)`.

  Args:
    path: of the checkpoint.
    template: variables of our model, or their shapes.
    views: names of the views, in the order of the checkpoint.

  Raises:
    DataError: the file is damaged, or of another model than `template`.
  """
  tensors = read_state_dict(path)
  return {'params': params(path, tensors, template['params'], views)}


def params(
  path: Path,
  tensors: Mapping[str, Any],
  template: Mapping[str, Any],
  views: Sequence[str],
) -> dict[str, Any]:
  """The same from the tensors of the state dict; `path` is for errors."""
  found = mm_dynamics.places(views)
  found |= places(views, 'fusion', 'fusion', prefix='deq_fusion.')
  return read_params(path, tensors, found, template)


def places(
  names: Sequence[str], *module: str, prefix: str = '', weighted: bool = False
) -> dict[str, Place]:
  """Where each tensor of a DEQ fusion belongs among our parameters.

  Args:
    names: of the modalities, in the order of the checkpoint.
    *module: keys of our `equilibrium_released`.
    prefix: of the tensors' names.
    weighted: whether there are weights of the features.
  """
  found: dict[str, Place] = {}
  for i, name in enumerate(names):
    layer, cell = f'{prefix}func_.branches.{i}', (*module, 'map', f'cell_{name}')
    found |= linear(f'{layer}.conv1', *cell, 'linear1')
    found |= linear(f'{layer}.conv2', *cell, 'linear2')
    for k in (1, 2, 3):
      found |= _norm(f'{layer}.gn{k}', *cell, f'norm{k}')
    if weighted:
      found[f'{prefix}weights.{i}'] = (*module, 'injection', f'weight_{name}')
  if weighted:
    found[f'{prefix}bias'] = (*module, 'injection', 'bias')
  layer, combine = f'{prefix}func_.branches.{len(names)}', (*module, 'map', 'combine')
  found |= linear(f'{layer}.gate', *combine, 'gate')
  found |= linear(f'{layer}.fuse', *combine, 'fuse')
  return found | _norm(f'{layer}.gn3', *combine, 'norm')


def _norm(name: str, *module: str) -> dict[str, Place]:
  scale, bias = (*module, 'norm', 'scale'), (*module, 'norm', 'bias')
  return {f'{name}.weight': scale, f'{name}.bias': bias}
