"""Reads variables of MATLAB files up to version 7, which run nothing when read.

Files of version 7.3 are HDF5: see `jdyn.data.hdf5`.
"""

import zlib
from pathlib import Path

import numpy as np

from jdyn.data.dataset import DataError


def read_variable(path: Path, name: str) -> np.ndarray:
  """The variable `name`, without axes of length one.

  A cell array or struct array becomes an array of objects or of records.

  Raises:
    DataError: if the file is absent, damaged or of version 7.3, or lacks the variable.
  """
  from scipy.io import loadmat, matlab

  try:
    variables = loadmat(path, variable_names=[name], squeeze_me=True, appendmat=False)
  except (
    # Damaged files make scipy raise any of these.
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    TypeError,
    ValueError,
    matlab.MatReadError,
    zlib.error,
  ) as error:
    raise DataError(
      f'{path}: not readable as a MATLAB file of version 7 or older ({error}). Copy or '
      'download it again.'
    ) from error
  if name not in variables:
    raise DataError(f'{path}: no variable {name}. Is this the file that its name says?')
  return np.asarray(variables[name])


def as_integers(values: np.ndarray, where: str) -> np.ndarray:
  """Whole numbers, which MATLAB may keep as floats, as `i64[N]`.

  Raises:
    DataError: if a value is no whole number; it starts with `where`.
  """
  flat = np.ravel(values)
  with np.errstate(invalid='ignore'):  # Infinity is no whole number either.
    if flat.dtype.kind in 'iuf' and (flat % 1 == 0).all():
      return flat.astype(np.int64)
  raise DataError(f'{where} is not all whole numbers. Is this the right file?')
