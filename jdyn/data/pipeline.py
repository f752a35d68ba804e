"""From a split and a plan of rows to batches, on the host.

`assemble` makes one batch, and `stream` prefetches those of training with Grain, for
splits that are augmented or too large for the accelerator's memory. Small splits live
on the device, where `training/feed.py` gathers the same rows inside the program.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jdyn.data.dataset import Split
from jdyn.data.order import train_rows


def nbytes(split: Split) -> int:
  """Bytes of a split's inputs as stored."""
  leaves = [
    leaf
    for value in split.inputs.values()
    for leaf in (value.values() if isinstance(value, Mapping) else [value])
  ]
  return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def assemble(split: Split, rows: np.ndarray, mask: np.ndarray | None = None):
  """The batch of the given rows, as NumPy arrays.

  Args:
    split: where the rows point.
    rows: `i32[B]`.
    mask: `f32[B]`, 0 for padding; all ones if None.
  """
  batch = split.select(rows)
  inputs = {
    name: (
      {key: np.asarray(leaf) for key, leaf in value.items()}
      if isinstance(value, Mapping)
      else np.asarray(value)
    )
    for name, value in batch.inputs.items()
  }
  for transform in (split.decode, split.collate):
    if transform is not None:
      inputs = transform(inputs)
  return _batch(inputs, np.asarray(batch.label), rows, mask)


def draw(split: Split, rows: np.ndarray, seed: int, step: int):
  """The batch of the given rows as training draws it, not decoded where possible.

  What becomes of an example depends on its place in the step, and not on the number
  of readers. `split.decode` is left to the program that takes the batch, since what
  is stored is smaller, unless a `collate` needs its results.
  """
  if split.augment is None:
    kept = split if split.collate else dataclasses.replace(split, decode=None)
    return assemble(kept, rows)
  drawn = [
    split.augment(str(key), _generator(seed, step, place))
    for place, key in enumerate(split.ids[rows])
  ]
  inputs = stack([{name: one[name] for name in split.inputs} for one, _ in drawn])
  return _batch(inputs, np.stack([label for _, label in drawn]), rows, None)


def _generator(seed: int, step: int, place: int) -> np.random.Generator:
  # The last word of the counter: streams of different places never meet.
  bits = np.random.Philox(key=[seed, step], counter=[0, 0, 0, place])
  return np.random.Generator(bits)


def _batch(inputs, label, rows, mask):
  return {
    'inputs': dict(inputs),
    'label': label,
    'mask': np.ones(len(rows), np.float32) if mask is None else mask,
    'index': np.asarray(rows, np.int32),
  }


def stack(batches: Sequence[Any]):
  """Stacks batches leaf by leaf on a new first axis."""
  first = batches[0]
  if isinstance(first, Mapping):
    return {key: stack([batch[key] for batch in batches]) for key in first}
  return np.stack(batches)


class _Calls:
  """Random access to the batches of call `i`: leaves `[S, steps, B, ...]`."""

  def __init__(self, split, seeds, batch_size, calls):
    self._splits = [split.for_seed(position) for position in range(len(seeds))]
    self._seeds, self._batch_size, self._calls = seeds, batch_size, calls

  def __len__(self) -> int:
    return len(self._calls)

  def __getitem__(self, i: int):
    start, steps = self._calls[i]
    batches = []
    for split, seed in zip(self._splits, self._seeds, strict=True):
      plan = train_rows(seed, len(split), self._batch_size, start, steps)
      drawn = [draw(split, rows, seed, start + i) for i, rows in enumerate(plan)]
      batches.append(stack(drawn))
    return stack(batches)


def stream(
  split: Split,
  seeds: Sequence[int],
  batch_size: int,
  calls: Sequence[tuple[int, int]],
  *,
  num_threads: int = 2,
  prefetch: int = 2,
) -> Iterator[Any]:
  """Batches of the given `(first step, steps)` calls, prefetched by Grain.

  One record is all that one compiled call consumes, with leaves
  `[seeds, steps, batch_size, ...]`: single small records would cost more in
  Python than a step costs in compute.
  """
  import grain  # Slow to import, and not needed for data that fits on the device.

  source = _Calls(split, tuple(seeds), batch_size, tuple(calls))
  options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
  return iter(grain.MapDataset.source(source).to_iter_dataset(options))
