"""Keeps the best epoch of each seed, and says when a seed has stopped.

Seeds that train together stop on their own: a stopped seed's best is no longer
replaced, so that its result is that of a run by itself. In a sweep that holds of
every member, one per seed and variant.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Best:
  """The best epoch so far; every leaf has a leading axis of seeds.

  Attributes:
    variables: of the model at that epoch.
    score: its validation score.
    epoch: counted from 1; 0 before the first.
    bad_epochs: epochs since then.
    stopped: whether `bad_epochs` exceeded the patience.
  """

  variables: Any
  score: jax.Array
  epoch: jax.Array
  bad_epochs: jax.Array
  stopped: jax.Array


def start(variables: Any, num_seeds: int, maximize: bool) -> Best:
  """Before the first epoch: any finite score is better."""
  worst = -jnp.inf if maximize else jnp.inf
  return Best(
    variables=jax.tree.map(jnp.copy, variables),
    score=jnp.full((num_seeds,), worst, jnp.float32),
    epoch=jnp.zeros((num_seeds,), jnp.int32),
    bad_epochs=jnp.zeros((num_seeds,), jnp.int32),
    stopped=jnp.zeros((num_seeds,), bool),
  )


def update(
  best: Best,
  variables: Any,
  score: jax.Array,
  epoch: jax.Array,
  *,
  maximize: bool,
  patience: int,
) -> Best:
  """After an epoch; only a finite and strictly better score counts.

  Args:
    best: so far.
    variables: now.
    score: `[S]`, of the validation split.
    epoch: that just ended, counted from 1.
    maximize: whether greater is better.
    patience: more bad epochs in a row than this stop a seed; -1 never does.
  """
  better = (score > best.score) if maximize else (score < best.score)
  better &= jnp.isfinite(score) & ~best.stopped

  def pick(new, old):
    return jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)

  bad_epochs = jnp.where(better, 0, best.bad_epochs + ~best.stopped)
  stopped = best.stopped if patience < 0 else best.stopped | (bad_epochs > patience)
  return Best(
    variables=jax.tree.map(pick, variables, best.variables),
    score=pick(score, best.score),
    epoch=jnp.where(better, epoch, best.epoch),
    bad_epochs=bad_epochs,
    stopped=stopped,
  )
