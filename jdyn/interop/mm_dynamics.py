"""The published checkpoint of MM-Dynamics (`model/ROSMAP/checkpoint.pt`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jdyn.interop.state_dict import Place, linear, read_params, read_state_dict

VIEWS = ('mrna', 'methylation', 'mirna')
"""The order of the views there: that of the files 1, 2 and 3."""

_LAYERS = {
  'FeatureInforEncoder': 'gate',
  'FeatureEncoder': 'encoder',
  'TCPClassifierLayer': 'classifier',
  'TCPConfidenceLayer': 'confidence',
}


def convert(
  path: Path, template: Mapping[str, Any], views: Sequence[str] = VIEWS
) -> dict[str, Any]:
  """Variables of a `feature_fusion` with `mm_dynamics` on raw views.

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
  found = read_params(path, tensors, places(views), template)
  # Theirs reads the views side by side in their order, ours in that of the names.
  last = found['head']['dense_0']
  parts = jnp.split(last['kernel'], len(views))
  last['kernel'] = jnp.concatenate([parts[views.index(view)] for view in sorted(views)])
  return found


def places(views: Sequence[str]) -> dict[str, Place]:
  """Where each tensor of the state dict belongs among our parameters."""
  found = linear('MMClasifier.0.clf.0', 'head', 'dense_0')  # Their spelling.
  for i, view in enumerate(views):
    for theirs, ours in _LAYERS.items():
      found |= linear(f'{theirs}.{i}.clf.0', 'fusion', f'{ours}_{view}')
  return found
