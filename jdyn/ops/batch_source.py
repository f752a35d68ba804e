"""The inputs of one call: what is on the device, and how to read the rest."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

PyTree = Any
Inputs = Mapping[str, PyTree]


class Reader(Protocol):
  """Where inputs come from when reading them is itself costly: files, a decoder."""

  size: int
  """Examples in the batch."""

  names: Sequence[str]
  """Of the inputs."""

  def read(
    self, names: Sequence[str] | None, rows: np.ndarray | None
  ) -> Mapping[str, PyTree]:
    """NumPy arrays `[len(rows), ...]` of these inputs; None stands for all."""


class BatchSource:
  """Reads each input once, and only the rows that are asked for.

  A mapping is a reader too, one that reads by indexing; its JAX arrays are on the
  device from the start.

  Attributes:
    size: examples in the batch.

  Raises:
    ValueError: there are none.
  """

  def __init__(self, inputs: Inputs | Reader):
    self._names: tuple[str, ...] | None = None
    self._held: dict[str, PyTree] = {}
    if isinstance(inputs, Mapping):
      self._names = tuple(inputs)
      self._held = {n: x for n, x in inputs.items() if _on_device(x)}
      self._read = lambda names, rows: take({n: inputs[n] for n in names}, rows)
      self.size = len(jax.tree.leaves(dict(inputs))[0]) if inputs else 0
    else:
      self._read, self.size = inputs.read, inputs.size
    if not self.size:
      raise ValueError('inputs hold no example: give at least one.')

  def held(self, names: Sequence[str] | None) -> dict[str, PyTree]:
    """Of these inputs, the ones that are on the device, all rows."""
    names = self._names if names is None else names
    return {n: self._held[n] for n in names or () if n in self._held}

  def read(
    self, names: Sequence[str] | None, rows: np.ndarray | None
  ) -> dict[str, PyTree]:
    """Of these inputs, the others, at these rows.

    Raises:
      ValueError: an input is not there.
    """
    names = self._names if names is None else names
    if names is None:
      return dict(self._read(None, rows))
    if self._names is not None and (lacking := sorted({*names} - {*self._names})):
      raise ValueError(f'inputs lack {lacking}; they have {sorted(self._names)}.')
    missing = [n for n in names if n not in self._held]
    return dict(self._read(missing, rows)) if missing else {}

  def hold(self, names: Sequence[str] | None) -> dict[str, PyTree]:
    """All rows of these inputs on the device, kept for later."""
    read = jax.device_put(self.read(names, None))
    self._held |= read
    if names is None:
      self._names = tuple(self._held)
    return self.held(names)


def take(tree: PyTree, rows: Any) -> PyTree:
  """These rows of every leaf; None stands for all, in their own order."""
  return tree if rows is None else jax.tree.map(lambda leaf: leaf[rows], tree)


def _on_device(tree: PyTree) -> bool:
  return all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree))
