"""What stands in the place of a modality that an example lacks."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def blank(values: Any, present: np.ndarray) -> Any:
  """A modality with zeros, or a sequence of one step of zeros, where it is absent.

  What stood there has no effect, be it not a number.

  Args:
    values: a NumPy or JAX array `[N, ...]`, or a mapping of `steps` and `length`.
    present: `bool[N]`.
  """
  if isinstance(values, Mapping):
    steps, length = values['steps'], values['length']
    return {'steps': blank(steps, present), 'length': _where(present, length, 1)}
  return _where(present, values, 0)


def _where(present: np.ndarray, values: Any, other: int) -> Any:
  xp = values.__array_namespace__()
  mask = xp.reshape(xp.asarray(present), (-1, *[1] * (values.ndim - 1)))
  return xp.where(mask, values, xp.asarray(other, dtype=values.dtype))
