"""The weights of the reference models: a function of a tensor's name and shape.

The rule is documented beside the reference numbers; no weight is stored.
"""

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def tensor(key: str, shape: Sequence[int]) -> np.ndarray:
  """The tensor `key` of a torch state dict, in torch's layout."""
  if key.endswith('num_batches_tracked'):
    return np.zeros(shape, np.int64)
  random = np.random.default_rng(zlib.crc32(key.encode()))
  z = np.asarray(random.standard_normal(tuple(shape), np.float32), np.float64)
  if key.endswith('running_var'):
    z = np.exp(0.2 * z)
  elif key.endswith('running_mean'):
    z = 0.1 * z
  elif len(shape) >= 2:
    z = z * np.sqrt(1 / np.prod(shape[1:]))
  elif len(shape) == 1 and key.endswith('weight'):
    z = 1 + 0.1 * z
  else:
    z = 0.1 * z
  return np.asarray(z, np.float32)


def state_dict(meta: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """All tensors that the `meta` of a reference file lists, by torch key."""
  shapes = {**meta['state_dict'], **meta.get('extra_tensors', {})}
  canonical = meta.get('aliases', {})
  tensors = {
    key: tensor(canonical.get(key, key), shape)
    for key, shape in shapes.items()
    if key not in meta.get('not_by_rule', ())
  }
  return {key: _gain(key, value, meta) for key, value in tensors.items()}


def _gain(key: str, value: np.ndarray, meta: Mapping[str, Any]) -> np.ndarray:
  """The tensor times the factor of the first pattern that is found in its key."""
  for pattern, factor in meta.get('gain', ()):
    if re.search(pattern, key):
      return np.asarray(value.astype(np.float64) * factor, np.float32)
  return value
