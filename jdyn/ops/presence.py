"""Modalities that an example lacks: masks among the inputs, and losing some.

Beside its modalities, a batch of inputs may hold `present/<modality>`, a mask
`bool[B]`. Where it is false, the modality itself is zero. A modality without a mask
is there for everyone; one that is not among the inputs is there for nobody.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jdyn.ops.random import row_keys

_PREFIX = 'present/'


def present_key(modality: str) -> str:
  """The name of a modality's mask among the inputs."""
  return f'{_PREFIX}{modality}'


def is_mask(name: str) -> bool:
  """Whether an input of this name is a mask."""
  return name.startswith(_PREFIX)


def blank(value: Any, present: jax.Array) -> Any:
  """A modality, with zeros where it is absent.

  Args:
    value: an array `[B, ...]`, or a sequence, whose length stays.
    present: `bool[B]`.
  """
  if isinstance(value, Mapping):
    return {**value, 'steps': blank(value['steps'], present)}
  return value * present.reshape(-1, *[1] * (value.ndim - 1)).astype(value.dtype)


def lose(
  inputs: Mapping[str, Any],
  modalities: Sequence[str],
  rate: float,
  key: jax.Array,
  axis_name: str | None = None,
) -> dict[str, Any]:
  """Inputs of which every example loses some modalities at random.

  An example keeps at least one of those that it has.

  Args:
    inputs: of this device's rows.
    modalities: those that may be lost, each for itself.
    rate: with which probability.
    key: of this step.
    axis_name: the data axis under `pmap` or `shard_map`.
  """
  names = sorted(modalities)
  (rows,) = {jax.tree.leaves(inputs[name])[0].shape[0] for name in names}
  keys = row_keys(key, rows, axis_name)
  chance = jax.vmap(lambda k: jax.random.uniform(k, (len(names),)))(keys)
  everyone = jnp.ones(rows, bool)
  had = jnp.stack([inputs.get(present_key(name), everyone) for name in names], axis=1)
  luckiest = jnp.argmax(jnp.where(had, chance, -1.0), axis=1)
  kept = (chance >= rate) | jax.nn.one_hot(luckiest, len(names), dtype=bool)
  lost = dict(inputs)
  for column, name in enumerate(names):
    present = (had & kept)[:, column]
    lost |= {name: blank(inputs[name], present), present_key(name): present}
  return lost
