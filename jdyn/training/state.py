"""What training carries from step to step: arrays only."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jdyn.losses.term import LossTerm


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """State of one member; training holds one with a leading axis of members.

  Attributes:
    step: updates done.
    seed: all randomness is folded from it and the step.
    variant: of the stage, whose schedules it follows; 0 in an ordinary run.
    params: of the model.
    collections: the model's other variables, for instance `batch_stats`.
    opt_state: the optimiser's.
    memory: of each loss term that has one.
    halted: set by the first step whose numbers are not finite (`train_step`); the
      state then stays as it was before that step.
  """

  step: jax.Array
  seed: jax.Array
  variant: jax.Array
  params: Any
  collections: Any
  opt_state: Any
  memory: Any
  halted: jax.Array

  @property
  def variables(self) -> Mapping[str, Any]:
    """What `model.apply` takes."""
    return {'params': self.params, **self.collections}


def init_state(
  seed: jax.Array,
  inputs: Any,
  *,
  model: nn.Module,
  tx: optax.GradientTransformation,
  terms: Mapping[str, LossTerm],
  hparams: Mapping[str, jax.Array],
  num_examples: int,
  variant: jax.Array | int = 0,
) -> TrainState:
  """The state before step 0.

  Args:
    seed: scalar `u32`.
    inputs: a batch of modalities, for its shapes.
    model: its parameters are drawn from the seed.
    tx: the optimiser.
    terms: loss terms by name.
    hparams: values at step 0.
    num_examples: size of the training split, for loss memories.
    variant: scalar, of the stage.
  """
  # Evaluation mode: initial values do not depend on it, and no axis need be bound.
  variables = dict(
    model.init(jax.random.key(seed), inputs, train=False, hparams=hparams)
  )
  params = variables.pop('params', {})
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    seed=seed,
    variant=jnp.asarray(variant, jnp.int32),
    params=params,
    collections=variables,
    opt_state=tx.init(params),
    memory={name: term.init(num_examples) for name, term in sorted(terms.items())},
    halted=jnp.zeros((), bool),
  )
