"""The values that cross package borders: batches, outputs and mergeable means."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any
"""A nested structure of arrays."""

Modalities = Mapping[str, Any]
"""Arrays of one batch by modality name, for example `{'text': f32[B, 300]}`.

A modality is an array `[B, ...]` or, for a sequence, the pair
`{'steps': f32[B, T, F], 'length': i32[B]}`: steps at or after `length` do not
exist for a model, and the last step is the one at `length - 1`.
"""

Batch = Mapping[str, Any]
"""`inputs`: Modalities, `label`, `mask`: f32[B] (0 marks padding) and
`index`: i32[B], the example's row in its split."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Outputs:
  """What a model returns.

  Attributes:
    logits: `[B, ..., C]`, the prediction that is scored.
    unimodal: `[B, ..., C]` per expert or modality; empty if there is none.
    weights: `[B]` per path or modality: gate decision or confidence.
    aux: anything else worth seeing, by name (`gate_logits`, residuals, ...).
    hidden: `[B, ...]`, what the model's head reads, for whoever continues from
      there; None for a model without a head of its own.
  """

  logits: jax.Array
  unimodal: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)
  weights: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)
  aux: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)
  hidden: jax.Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Fused:
  """What a fusion returns: one array, and the weight it gave to each input.

  A fusion that judges its inputs one by one also gives the logits of each in
  `unimodal`.
  """

  value: jax.Array
  weights: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)
  aux: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)
  unimodal: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Gated:
  """What a gate returns: `weights` `[B, K]`, rows sum to one, and raw `logits`."""

  weights: jax.Array
  logits: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
  """A sum and a count, so that padding, batches and devices average right."""

  total: jax.Array
  count: jax.Array

  def __add__(self, other: 'Mean') -> 'Mean':
    """Merges two partial means."""
    return Mean(self.total + other.total, self.count + other.count)

  def compute(self) -> jax.Array:
    """The mean; 0 where nothing was counted."""
    return self.total / jnp.where(self.count > 0, self.count, 1)


def weighted_mean(values: jax.Array, weights: jax.Array) -> Mean:
  """The `Mean` of `values` with non-negative `weights` of the same shape."""
  return Mean(jnp.sum(values * weights), jnp.sum(weights))
