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


ALL = slice(None)
"""The whole of a batch, where one process feeds all devices."""


def assemble(
  split: Split, rows: np.ndarray, mask: np.ndarray | None = None, own: slice = ALL
):
  """The batch of the given rows, as NumPy arrays.

  Args:
    split: where the rows point.
    rows: `i32[B]`.
    mask: `f32[B]`, 0 for padding; all ones if None.
    own: which of the rows are wanted; no others are read, unless examples depend on
      the rest of their batch.
  """
  mask = np.ones(len(rows), np.float32) if mask is None else mask
  if split.collate is not None and own != ALL:
    return _cut(assemble(split, rows, mask), own)
  rows, mask = rows[own], mask[own]
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


def _cut(tree: Any, own: slice):
  if isinstance(tree, Mapping):
    return {key: _cut(value, own) for key, value in tree.items()}
  return tree[own]


def draw(split: Split, rows: np.ndarray, seed: int, step: int, own: slice = ALL):
  """The batch of the given rows as training draws it, not decoded where possible.

  What becomes of an example depends on its place in the step, and not on the number
  of readers. `split.decode` is left to the program that takes the batch, since what
  is stored is smaller, unless a `collate` needs its results.
  """
  if split.augment is None:
    kept = split if split.collate else dataclasses.replace(split, decode=None)
    return assemble(kept, rows, own=own)
  drawn = [
    split.augment(str(split.ids[rows[place]]), _generator(seed, step, place))
    for place in range(len(rows))[own]
  ]
  rows = rows[own]
  inputs = stack([{name: one[name] for name in split.inputs} for one, _ in drawn])
  mask = np.ones(len(rows), np.float32)
  return _batch(inputs, np.stack([label for _, label in drawn]), rows, mask)


def _generator(seed: int, step: int, place: int) -> np.random.Generator:
  # The last word of the counter: streams of different places never meet.
  bits = np.random.Philox(key=[seed, step], counter=[0, 0, 0, place])
  return np.random.Generator(bits)


def _batch(inputs, label, rows, mask):
  return {
    'inputs': dict(inputs),
    'label': label,
    'mask': mask,
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

  def __init__(self, split, seeds, batch_size, calls, own):
    self._own = own
    self._splits = [split.for_seed(position) for position in range(len(seeds))]
    self._seeds, self._batch_size, self._calls = seeds, batch_size, calls

  def __len__(self) -> int:
    return len(self._calls)

  def __getitem__(self, i: int):
    start, steps = self._calls[i]
    batches = []
    for split, seed in zip(self._splits, self._seeds, strict=True):
      plan = train_rows(seed, len(split), self._batch_size, start, steps)
      drawn = [
        draw(split, rows, seed, start + i, self._own) for i, rows in enumerate(plan)
      ]
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
  own: slice = ALL,
) -> Iterator[Any]:
  """Batches of the given `(first step, steps)` calls, prefetched by Grain.

  One record is all that one compiled call consumes, with leaves
  `[seeds, steps, batch_size, ...]`, or of these the `own` rows of each batch: single
  small records would cost more in Python than a step costs in compute.
  """
  import grain  # Slow to import, and not needed for data that fits on the device.

  source = _Calls(split, tuple(seeds), batch_size, tuple(calls), own)
  options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
  return iter(grain.MapDataset.source(source).to_iter_dataset(options))
