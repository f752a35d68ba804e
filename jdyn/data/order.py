"""The order of examples: a pure function of (seed, step).

Training examples are one endless stream, epoch permutation after epoch
permutation; batch `s` is positions `[s * batch_size, (s + 1) * batch_size)`. So
no batch is short, no example is dropped, none is seen twice before all others
were seen once, and the batch of any step can be asked for by itself.
"""

import functools
import hashlib

import numpy as np


@functools.lru_cache(maxsize=64)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
  generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
  return generator.permutation(size).astype(np.int32)


def train_rows(
  seed: int, size: int, batch_size: int, start: int, steps: int
) -> np.ndarray:
  """Rows of the batches of steps `start` to `start + steps`: `i32[steps, batch_size]`.

  Args:
    seed: of the run.
    size: examples in the split.
    batch_size: examples per step; it may exceed `size`.
    start: the first step.
    steps: how many.
  """
  first, last = start * batch_size, (start + steps) * batch_size
  epochs = range(first // size, -(-last // size))
  stream = np.concatenate([_permutation(seed, epoch, size) for epoch in epochs])
  offset = first - epochs.start * size
  return stream[offset : offset + last - first].reshape(steps, batch_size)


def eval_rows(size: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
  """All rows in order, the last batch padded: rows and mask `[batches, batch_size]`."""
  batches = -(-size // batch_size)
  rows = np.arange(batches * batch_size)
  mask = (rows < size).astype(np.float32)
  rows = np.minimum(rows, size - 1).astype(np.int32)
  return rows.reshape(batches, batch_size), mask.reshape(batches, batch_size)


def chain_hash(previous: str, rows: np.ndarray) -> str:
  """Extends a hash over all batches so far; a resumed run must reach the same one."""
  digest = hashlib.sha256(previous.encode())
  digest.update(np.ascontiguousarray(rows, dtype='<i4').tobytes())
  return digest.hexdigest()[:16]


def split_steps(steps: int, limit: int) -> list[int]:
  """Cuts `steps` into the fewest pieces of at most `limit`, all but the last equal.

  Equal pieces share one compiled program.
  """
  pieces = -(-steps // limit)
  length = -(-steps // pieces)
  lengths = [length] * (steps // length)
  return lengths + [steps % length] * bool(steps % length)
