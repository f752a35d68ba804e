"""The trained variables of a stage: saved, loaded, and joined with its experts'."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from jdyn import build
from jdyn.evaluators.run_files import RESULT, read_json, remedy
from jdyn.optimizer import EXPERTS
from jdyn.training.checkpoint import CheckpointError, Checkpoints


def join(own: Mapping[str, Any], experts: Mapping[str, Any]) -> dict[str, Any]:
  """Variables of a model from its own and those of its experts.

  Args:
    own: collections of the model without (or with old) experts.
    experts: collections of each expert, by path.
  """
  return place(own, {f'{EXPERTS}{path}': found for path, found in experts.items()})


def place(own: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
  """Variables with parts of them replaced or added.

  Args:
    own: collections of a model.
    parts: collections of its modules by their place: names from the outermost
      inwards with slashes between; '' is the model itself.
  """
  joined = flatten_dict(dict(own), keep_empty_nodes=True)
  for where, part in parts.items():
    for collection, tree in part.items():
      prefix = (collection, *filter(None, where.split('/')))
      found = flatten_dict(dict(tree), keep_empty_nodes=True)
      joined |= {prefix + inner: leaf for inner, leaf in found.items()}
  return unflatten_dict(joined)


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
    wanted = abstract(stage, spec, num_seeds)
    restored = checkpoints.restore(wanted, remedy(folder / RESULT))
  if restored is None:
    raise CheckpointError(
      f'{folder} holds no trained model; run `python -m jdyn.train` with its config.'
    )
  return jax.tree.map(np.asarray, restored[0])


def load_pretrained(
  folder: Path, place: str, stage: build.Stage, spec: Any, seeds: Sequence[int]
) -> Any:
  """Variables `[S, ...]` for a place in a stage's model, verified.

  Args:
    folder: of a run, whose main model is taken, or written by `jdyn.convert`. What
      holds one model gives the same to all seeds; otherwise seeds must agree.
    place: in the stage's model, as `place` takes it.
    stage: to start with them.
    spec: of the dataset.
    seeds: of the run.

  Raises:
    CheckpointError: there are none, or they are damaged, of other seeds or of another
      model.
    DataError: the config beside them is damaged.
  """
  config, best = folder / 'config.json', folder / 'best'
  theirs: tuple[int, ...] = (0,)
  if config.is_file():
    theirs = build.run(ConfigDict(read_json(config))).seeds
    best = folder / 'stages' / build.MAIN / 'best'
  if not best.is_dir():
    raise CheckpointError(
      f'pretrained: {folder} holds no trained model; give the folder of a finished '
      'run, or one that `python -m jdyn.convert` wrote.'
    )
  if len(theirs) > 1 and theirs != tuple(seeds):
    raise CheckpointError(
      f'pretrained: {folder} has seeds {theirs}, this run has {tuple(seeds)}; take one '
      'seed there, or the same ones here.'
    )
  own = flatten_dict(abstract(stage, spec, len(theirs)))
  prefix = tuple(filter(None, place.split('/')))
  part = {
    (key[0], *key[1 + len(prefix) :]): leaf
    for key, leaf in own.items()
    if key[1 : 1 + len(prefix)] == prefix
  }
  if not part:
    names = sorted({'/'.join(key[1:depth]) for key in own for depth in (2, 3)})
    raise CheckpointError(
      f'pretrained: the model has no {place!r}; among its parts are {names}.'
    )
  with Checkpoints(best, keep=1) as checkpoints:
    try:
      restored = checkpoints.restore(unflatten_dict(part))
    except ValueError as error:  # As Orbax says that there are other leaves.
      raise CheckpointError(
        f'pretrained: {folder} holds other layers than {place or "the model"!r} here '
        'has; give the folder of such a model.'
      ) from error
    except CheckpointError as error:
      raise CheckpointError(f'pretrained: {folder}: {error}') from error
  if restored is None:
    raise CheckpointError(f'pretrained: {folder} holds no trained model.')
  repeats = len(seeds) // len(theirs)
  return jax.tree.map(lambda x: np.repeat(np.asarray(x), repeats, axis=0), restored[0])


def for_seed(variables: Any, position: int) -> Any:
  """The variables of one seed."""
  return jax.tree.map(lambda x: jnp.asarray(x[position]), variables)
