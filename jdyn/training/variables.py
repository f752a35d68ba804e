"""The trained variables of a stage: saved, loaded, and joined with its experts'."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdyn import build
from jdyn.optimizer import EXPERTS
from jdyn.training.checkpoint import CheckpointError, Checkpoints


def join(own: Mapping[str, Any], experts: Mapping[str, Any]) -> dict[str, Any]:
  """Variables of a model from its own and those of its experts.

  Args:
    own: collections of the model without (or with old) experts.
    experts: collections of each expert, by path.
  """
  joined = {collection: dict(tree) for collection, tree in own.items()}
  for path, variables in experts.items():
    for collection, tree in variables.items():
      joined.setdefault(collection, {})[f'{EXPERTS}{path}'] = tree
  return joined


def abstract(stage: build.Stage, spec: Any, num_seeds: int) -> Any:
  """Shapes of the whole model's variables with a leading axis of seeds."""
  inputs = build.example_inputs(spec)
  hparams = {'gate_temperature': 1.0, 'gate_hard': True}

  def init(key):
    return stage.model.init(key, inputs, train=False, hparams=hparams)

  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), num_seeds))
  return jax.eval_shape(jax.vmap(init), keys)


def save_best(folder: Path, step: int, variables: Any) -> None:
  """Saves what a stage is for."""
  with Checkpoints(folder / 'best', keep=1) as checkpoints:
    checkpoints.save(step, variables, meta={})


def load_best(folder: Path, stage: build.Stage, spec: Any, num_seeds: int) -> Any:
  """The variables `[S, ...]` that `save_best` saved, verified.

  Raises:
    CheckpointError: there are none, or they are damaged.
  """
  with Checkpoints(folder / 'best', keep=1) as checkpoints:
    restored = checkpoints.restore(abstract(stage, spec, num_seeds))
  if restored is None:
    raise CheckpointError(
      f'{folder} holds no trained model; run `python -m jdyn.train` with its config.'
    )
  return jax.tree.map(np.asarray, restored[0])


def for_seed(variables: Any, position: int) -> Any:
  """The variables of one seed."""
  return jax.tree.map(lambda x: jnp.asarray(x[position]), variables)
