"""How a large array of reference numbers is stored: as a sample and its summaries.

`meta['subsample'][key]` gives its shape and a stride `s`. The file then holds every
`s`-th entry under `key`, mean, deviation and norm under `stat/<key>`, and 64 random
projections, which every entry takes part in, under `proj/<key>`.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

_PROJECTIONS = 64


def expand(key: str, value: np.ndarray, meta: Mapping[str, Any]) -> dict[str, Any]:
  """What is stored of an array: itself, or the three by their names."""
  stored = meta.get('subsample', {}).get(key)
  if stored is None:
    return {key: value}
  assert list(value.shape) == stored['shape'], (key, value.shape, stored['shape'])
  exact = value.astype(np.float64)
  stat = [exact.mean(), exact.std(), np.sqrt(np.square(exact).sum())]
  return {
    key: value.ravel()[:: stored['stride']],
    f'stat/{key}': np.array(stat),
    f'proj/{key}': project(key, exact),
  }


def project(key: str, value: np.ndarray) -> np.ndarray:
  """Sums of the entries with random signs in 64 random groups, about `rms` each."""
  random = np.random.default_rng(zlib.crc32(f'proj:{key}'.encode()))
  group = random.integers(0, _PROJECTIONS, value.size)
  sign = 2.0 * random.integers(0, 2, value.size) - 1.0
  sums = np.bincount(group, sign * value.ravel(), _PROJECTIONS)
  return sums / np.sqrt(max(value.size, _PROJECTIONS) / _PROJECTIONS)
