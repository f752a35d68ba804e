"""One function, three ways onto devices: `jit`, `pmap` and `jit(shard_map)`.

A function takes and returns trees; per argument and result, `replicated` or the
number of the axis that holds the batch says how it lies on the devices. The
function is written for one device's rows and sums over `DATA_AXIS` itself.

Where several processes run together, the devices of all of them are one row, and each
process gives the rows of the batch that lie on its own devices.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

DATA_AXIS = 'data'
replicated = None


class Parallel:
  """Where the batch axis goes.

  Attributes:
    how: `jit`, `pmap` or `shard_map`.
    num_devices: over which the batch is split; 1 under `jit`.
    axis_name: to be given to the model and the step; None under `jit`.
  """

  def __init__(self, how: str = 'auto', devices: Sequence[jax.Device] | None = None):
    """`auto` is `jit` on one device and `shard_map` on several.

    Raises:
      ValueError: `how` is none of these.
    """
    devices = list(jax.devices() if devices is None else devices)
    # Those of one process side by side: its rows of a batch are then one piece.
    devices.sort(key=lambda device: (device.process_index, device.id))
    self._num_processes = len({device.process_index for device in devices})
    if how == 'auto':
      how = 'jit' if len(devices) == 1 else 'shard_map'
    if how not in ('jit', 'pmap', 'shard_map'):
      raise ValueError(
        f'Unknown parallel={how!r}; expected auto, jit, pmap or shard_map.'
      )
    if self._num_processes > 1 and how != 'shard_map':
      raise ValueError(
        f"parallel={how!r} works within one process; with several it must be 'auto' or "
        "'shard_map'."
      )
    self.how = how
    self._devices = devices[:1] if how == 'jit' else devices
    self._mesh = Mesh(np.array(self._devices), (DATA_AXIS,))
    self.num_devices = len(self._devices)
    self.axis_name = None if how == 'jit' else DATA_AXIS

  def check(self, batch_size: int) -> None:
    """Raises ValueError if a batch does not divide over the devices."""
    if batch_size % self.num_devices:
      raise ValueError(
        f'batch_size={batch_size} must divide by {self.num_devices} devices; '
        "change it, or set parallel='jit'."
      )

  def own_rows(self, batch_size: int) -> slice:
    """The rows of a batch that this process gives."""
    if self._num_processes == 1:
      return slice(None)
    own = [device.process_index == jax.process_index() for device in self._devices]
    per_device = batch_size // self.num_devices
    first = own.index(True) * per_device
    return slice(first, first + sum(own) * per_device)

  def put(self, tree: Any) -> Any:
    """Places a tree on every device."""
    if self._num_processes > 1:
      return self._place(tree, replicated)
    if self.how == 'shard_map':
      return jax.device_put(tree, NamedSharding(self._mesh, P()))
    return jax.device_put(tree, self._devices[0])

  def wrap(
    self,
    fn: Callable,
    in_axes: Sequence[int | None],
    out_axes: Sequence[int | None],
    donate: Sequence[int] = (),
  ) -> Callable:
    """Compiles `fn`, which takes and returns tuples of trees.

    Args:
      fn: positional arguments in, a tuple out; sees one device's rows.
      in_axes: per argument, `replicated` or the axis that holds the batch.
      out_axes: per result, likewise.
      donate: arguments whose memory may be reused.

    Returns:
      The function; of an argument that is split, a process gives its `own_rows`.
    """
    if self.how == 'jit':
      return jax.jit(fn, donate_argnums=tuple(donate))
    if self.how == 'shard_map':
      # check_vma=False: gradients then need the psum that the step makes itself, as
      # under pmap; with the check they would come out summed already.
      sharded = jax.shard_map(
        fn,
        mesh=self._mesh,
        in_specs=tuple(_spec(axis) for axis in in_axes),
        out_specs=tuple(_spec(axis) for axis in out_axes),
        check_vma=False,
      )
      compiled = jax.jit(sharded, donate_argnums=tuple(donate))
      if self._num_processes == 1:
        return compiled
      return lambda *args: compiled(*map(self._place, args, in_axes))
    mapped = jax.pmap(
      fn,
      axis_name=DATA_AXIS,
      in_axes=tuple(in_axes),
      out_axes=tuple(out_axes),
      devices=self._devices,
    )

    def call(*args):
      args = [
        arg if axis is None else jax.tree.map(lambda x, a=axis: self._split(x, a), arg)
        for arg, axis in zip(args, in_axes, strict=True)
      ]
      return tuple(
        out if axis is None else jax.tree.map(lambda x, a=axis: _merge(x, a), out)
        for out, axis in zip(mapped(*args), out_axes, strict=True)
      )

    return call

  def _place(self, tree: Any, axis: int | None) -> Any:
    """A tree on the devices of all processes, from what this one has of it."""
    sharding = NamedSharding(self._mesh, _spec(axis))

    def place(leaf):
      if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return leaf  # It is there already.
      return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))

    return jax.tree.map(place, tree)

  def _split(self, x, axis: int):
    shape = x.shape
    return x.reshape(*shape[:axis], self.num_devices, -1, *shape[axis + 1 :])


def fetch(x: Any) -> np.ndarray:
  """The whole of an array, wherever its parts lie."""
  whole = not isinstance(x, jax.Array) or x.is_fully_addressable
  if whole or x.is_fully_replicated:
    return np.asarray(x)
  return np.asarray(multihost_utils.process_allgather(x, tiled=True))


def local(x: Any) -> Any:
  """An array that lies alike on all devices, as this process can use it by itself."""
  return x if getattr(x, 'is_fully_addressable', True) else np.asarray(x)


def _merge(x, axis: int):
  return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _spec(axis: int | None) -> P:
  return P() if axis is None else P(*[None] * axis, DATA_AXIS)
