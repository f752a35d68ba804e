"""Sequences of unequal length in one array: who exists, and who comes last.

A sequence is `{'steps': f32[B, T, F], 'length': i32[B]}` with every length at
least 1; a plain `[B, T, F]` array is a sequence of full length.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


def is_sequence(x: Any) -> bool:
  """Whether a modality is the pair of `steps` and `length`."""
  return isinstance(x, Mapping)


def as_sequence(x: Any) -> tuple[jax.Array, jax.Array]:
  """Steps `[B, T, F]` and lengths `[B]` of a sequence or of a plain array.

  Raises:
    ValueError: if the steps are not three-dimensional.
  """
  steps = x['steps'] if is_sequence(x) else x
  if steps.ndim != 3:
    raise ValueError(
      f'A sequence needs steps [batch, time, features], got shape {steps.shape}.'
    )
  if is_sequence(x):
    return steps, x['length']
  return steps, jnp.full(steps.shape[:1], steps.shape[1], jnp.int32)


def step_mask(length: jax.Array, num_steps: int) -> jax.Array:
  """`bool[B, T]`, true where `t < length`."""
  return jnp.arange(num_steps)[None, :] < length[:, None]


def zero_padding(steps: jax.Array, length: jax.Array) -> jax.Array:
  """Steps `[B, T, F]` with zeros at and after `length`."""
  return jnp.where(step_mask(length, steps.shape[1])[:, :, None], steps, 0)


def last_step(steps: jax.Array, length: jax.Array) -> jax.Array:
  """The step at `length - 1`, as `[B, 1, F]`."""
  return jnp.take_along_axis(steps, (length - 1)[:, None, None], axis=1)
