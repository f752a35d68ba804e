"""Feeds the compiled training call: from the device's memory, or from the host.

Both feeds give identical batches; only where they are assembled differs. A feed
yields `xs` for each call, and `fetch(data, x)` makes one batch of it inside the
compiled program.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdyn.data import pipeline
from jdyn.data.dataset import Split
from jdyn.data.order import train_rows

BATCH_AXIS = 2
"""Axis of the batch in every leaf of `xs`: `[seeds, steps, batch, ...]`."""


class DeviceFeed:
  """The split lives on the device; a call gets rows and gathers them itself."""

  def __init__(
    self,
    split: Split,
    seeds: Sequence[int],
    batch_size: int,
    own: slice = pipeline.ALL,
  ):
    """`split` is copied to the device by `data`; `own` are this process's rows."""
    self._split, self._seeds, self._batch_size = split, tuple(seeds), batch_size
    self._own = own

  @property
  def data(self) -> Any:
    """Inputs and labels, as stored, to be placed once."""
    return on_host(self._split)

  def calls(self, calls: Sequence[tuple[int, int]]) -> Iterator[Any]:
    """Rows `i32[seeds, steps, batch]` of each `(first step, steps)` call."""
    size = len(self._split)
    for start, steps in calls:
      yield np.stack(
        [train_rows(s, size, self._batch_size, start, steps) for s in self._seeds]
      )[..., self._own]

  def fetch(self, data: Any, rows: jax.Array) -> Any:
    """Gathers the batch of `rows`."""
    return gather(self._split, data, rows, jnp.ones(rows.shape, jnp.float32))


class HostFeed:
  """Grain assembles and prefetches the batches of whole calls on the host."""

  data = ()

  def __init__(
    self,
    split: Split,
    seeds: Sequence[int],
    batch_size: int,
    num_threads: int,
    own: slice = pipeline.ALL,
  ):
    """`num_threads` read ahead; `own` are this process's rows of each batch."""
    self._split, self._seeds, self._batch_size = split, tuple(seeds), batch_size
    self._num_threads, self._own = num_threads, own

  def calls(self, calls: Sequence[tuple[int, int]]) -> Iterator[Any]:
    """Batches with leaves `[seeds, steps, batch, ...]` of each call."""
    return pipeline.stream(
      self._split,
      self._seeds,
      self._batch_size,
      calls,
      num_threads=self._num_threads,
      own=self._own,
    )

  def fetch(self, data: Any, batch: Any) -> Any:
    """What came, decoded if it was not yet."""
    del data  # Nothing lives on the device.
    if self._split.decode is None or self._split.collate is not None:
      return batch
    return {**batch, 'inputs': self._split.decode(batch['inputs'])}


def gather(split: Split, data: Any, rows: jax.Array, mask: jax.Array) -> Any:
  """The batch of `rows` from arrays on the device, decoded there."""
  inputs, label = jax.tree.map(lambda leaf: leaf[rows], (data['inputs'], data['label']))
  if split.decode is not None:
    inputs = split.decode(inputs)
  return {'inputs': inputs, 'label': label, 'mask': mask, 'index': rows}


def on_host(split: Split) -> Any:
  """A split's arrays as `gather` reads them, memory maps read."""
  inputs = jax.tree.map(np.asarray, dict(split.inputs))
  return {'inputs': inputs, 'label': np.asarray(split.label)}


def fits(split: Split, limit: int) -> bool:
  """Whether a split may live on the device: small, and rows independent."""
  return split.collate is None and pipeline.nbytes(split) <= limit


def _device_problem(split: Split) -> str:
  """Why a split cannot be trained on from the device's memory; empty if it can."""
  if split.collate is not None:
    return "pad to the longest of a batch; set feed='host' or another data.padding"
  if split.augment is not None:
    return "augment examples; set feed='host'"
  return ''


def make_feed(
  split: Split,
  seeds: Sequence[int],
  batch_size: int,
  *,
  feed: str,
  device_bytes: int,
  num_threads: int,
  own: slice = pipeline.ALL,
):
  """The feed that a config asks for; `own` are this process's rows of each batch.

  Raises:
    ValueError: unknown name, or `device` for data whose examples depend on each
      other's lengths, or are augmented.
  """
  if feed == 'auto':
    feed = 'host' if split.augment or not fits(split, device_bytes) else 'device'
  if feed == 'host':
    return HostFeed(split, seeds, batch_size, num_threads, own)
  if feed != 'device':
    raise ValueError(f'Unknown feed={feed!r}; expected auto, device or host.')
  if problem := _device_problem(split):
    raise ValueError(f"feed='device' cannot {problem}.")
  return DeviceFeed(split, seeds, batch_size, own)
