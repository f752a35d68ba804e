"""MNIST's four files, in the idx format in which they were published."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from jdyn.data import expansion
from jdyn.data.dataset import DataError

FILES = ('images-idx3-ubyte', 'labels-idx1-ubyte')
"""Ends of the file names of a part."""

_PREFIX = {'train': 'train', 'test': 't10k'}
_MAX_BYTES = 2**27  # The real files hold up to 47 million.


def read_idx(path: Path) -> np.ndarray:
  """An MNIST file of unsigned bytes, gzipped or not: `u8[...]`.

  It takes at most 128 MiB, and as much as the file has or, gzipped, could have.

  Raises:
    DataError: if it is no such file, or its size is not what its header says.
  """
  packed = path.suffix == '.gz'
  try:
    with gzip.open(path) if packed else path.open('rb') as file:
      zeros, kind, rank = struct.unpack('>HBB', file.read(4))
      if zeros or kind != 8 or not 1 <= rank <= 3:
        raise DataError(f'{path}: not an idx file of bytes. Fetch it again.')
      shape = struct.unpack(f'>{rank}I', file.read(4 * rank))
      size = math.prod(shape)
      # Before room is made for them. Rows without bytes are no file of MNIST, either.
      ratio = expansion.DEFLATE_RATIO if packed else 1
      most = min(_MAX_BYTES, ratio * path.stat().st_size)
      if max(shape) > most or size > most:
        raise DataError(
          f'{path}: {shape} bytes promised, more than a file of this size can hold. '
          'Fetch it again.'
        )
      data = file.read(size + 1)  # Never more than the header promises, but for one.
  except (struct.error, EOFError, OSError, zlib.error) as error:
    raise DataError(
      f'{path}: truncated or damaged ({error}). Fetch it again.'
    ) from error
  if len(data) != size:
    found = 'more' if len(data) > size else len(data)
    raise DataError(
      f'{path}: the header promises {size} bytes, there are {found}. Fetch it again.'
    )
  return np.frombuffer(data, np.uint8).reshape(shape)


def read_mnist(
  root: Path, part: str, limit: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Images `u8[N, 784]` and labels `u8[N]` of `train` or `test`, in MNIST's order.

  Raises:
    DataError: if a file is absent or damaged, or the two do not fit.
  """
  images = read_idx(mnist_path(root, part, FILES[0]))
  labels = read_idx(mnist_path(root, part, FILES[1]))
  if (
    images.ndim != 3 or images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]
  ):
    raise DataError(
      f'{root}: {part} has images {images.shape} and labels {labels.shape}; expected '
      '(N, 28, 28) and (N,).'
    )
  if len(labels) == 0 or labels.max() > 9:
    raise DataError(f'{root}: the {part} labels are not digits from 0 to 9.')
  return images.reshape(-1, 28 * 28)[:limit], labels[:limit]


def mnist_path(root: Path, part: str, rest: str) -> Path:
  """The file, gzipped or not; `rest` is the end of its name before any `.gz`."""
  plain = root / f'{_PREFIX[part]}-{rest}'
  for path in (plain, plain.with_name(f'{plain.name}.gz')):
    if path.is_file():
      return path
  raise DataError(f'{plain}[.gz]: absent. Expected the four files of MNIST in {root}.')
