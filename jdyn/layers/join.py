"""Several modalities as one input: what a joint gate or an early fusion reads."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from jdyn.layers.sequence import as_sequence, is_sequence, zero_padding
from jdyn.typing import Modalities


def flatten(x: Any) -> jax.Array:
  """One vector per example, `[B, D]`, of an array or a sequence.

  Steps of a sequence that do not exist count as zeros.
  """
  if is_sequence(x):
    x = zero_padding(*as_sequence(x))
  return x.reshape(x.shape[0], -1)


def join(inputs: Modalities, names: Iterable[str]) -> Any:
  """Puts modalities side by side, in the sorted order of their names.

  - One name: that modality as it is.
  - Arrays: each flattened to `[B, D]`, then concatenated to `[B, sum of D]`.
  - Sequences: the features of a step concatenated, `[B, T, sum of F]`. The
    joined length is the longest of the parts, so that no step is lost; where a
    part has ended, its features are zero. (Word-aligned modalities, as in
    CMU-MOSEI, have equal lengths, and nothing is filled in.)

  Raises:
    ValueError: for an unknown or no name, for arrays mixed with sequences, and
      for sequences whose arrays have different numbers of steps.
  """
  names = sorted(set(names))
  if not names or (unknown := [name for name in names if name not in inputs]):
    problem = f'unknown {unknown}' if names else 'no modality'
    raise ValueError(f'Cannot join: {problem}; choose from {sorted(inputs)}.')
  parts = {name: inputs[name] for name in names}
  if len(parts) == 1:
    return parts[names[0]]
  kinds = {is_sequence(part) for part in parts.values()}
  if kinds == {False}:
    return jnp.concatenate([flatten(part) for part in parts.values()], axis=-1)
  if kinds == {True}:
    return _join_sequences(parts)
  arrays = [name for name in names if not is_sequence(parts[name])]
  raise ValueError(
    f'Cannot join {names}: {arrays} are arrays, the others are sequences; join '
    'them after an encoder has turned each into one vector.'
  )


def _join_sequences(parts: Modalities) -> Modalities:
  sequences = {name: as_sequence(part) for name, part in parts.items()}
  num_steps = {name: steps.shape[1] for name, (steps, _) in sequences.items()}
  if len(set(num_steps.values())) > 1:
    raise ValueError(
      f'Cannot join sequences with different numbers of steps: {num_steps}.'
    )
  steps = [zero_padding(steps, length) for steps, length in sequences.values()]
  lengths = [length for _, length in sequences.values()]
  return {
    'steps': jnp.concatenate(steps, axis=-1),
    'length': jnp.max(jnp.stack(lengths), axis=0),
  }
