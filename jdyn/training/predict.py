"""A finished stage's outputs on every example of a split."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdyn.build import Stage
from jdyn.data.dataset import Split
from jdyn.evaluators.run_files import RESULT, read_json
from jdyn.models.input_names import input_names
from jdyn.tasks import Task
from jdyn.training.guard import NAMED, NonFiniteError
from jdyn.training.parallel import Parallel
from jdyn.training.programs import Evaluator
from jdyn.typing import Batch, Outputs


def predict(
  stage: Stage,
  split: Split,
  variables: Any,
  hparams: Mapping[str, np.ndarray],
  **options,
) -> Any:
  """Outputs `[S, N, ...]` of a stage's whole model.

  Args:
    stage: whose model it is.
    split: of the dataset.
    variables: with leading axis S.
    hparams: at evaluation, `[S]` each.
    **options: of `predictor`.
  """
  num_seeds = jax.tree.leaves(variables)[0].shape[0]
  return predictor(stage, split, num_seeds, **options)(variables, hparams)


def predictor(
  stage: Stage,
  split: Split,
  num_seeds: int,
  *,
  parallel: Parallel,
  device_bytes: int,
  keep: Callable[[Outputs, Batch], Any] | None = None,
) -> Callable[[Any, Mapping[str, np.ndarray]], Any]:
  """`(variables, hparams) -> outputs`, compiled once for many of both.

  Of a model with exits `unimodal` has what every exit alone gives.

  Args:
    stage: whose model it is.
    split: of the dataset; modalities that are not there are absent.
    num_seeds: S.
    parallel: how the batch lies on the devices.
    device_bytes: a split larger than this is fed from the host.
    keep: what of the outputs is wanted; if None, what predictions keep: no hidden
      states, and what the task keeps of logits.
  """
  names = [name for name in input_names(stage.model) if name in split.inputs]
  read = split.only(names)

  def runner(model, keep):
    evaluator = Evaluator(
      model,
      read,
      parallel,
      num_seeds,
      task=stage.task,
      terms={},
      batch_size=stage.batch_size,
      device_bytes=device_bytes,
      keep=keep,
    )

    def finite_outputs(variables, hparams):
      _, finite, outputs = evaluator(variables, hparams, {})
      _check_finite(stage, split, finite)
      return outputs

    return finite_outputs

  run = runner(stage.model, keep or partial(_kept, stage.task))
  if keep or not hasattr(stage.model, 'given'):
    return run
  # A model with exits blends them; what each is by itself takes a run of its own.
  run_exit = runner(stage.model.given(), partial(_kept_logits, stage.task))

  def run_all(variables, hparams):
    alone = {}
    for number, path in enumerate(stage.model.paths):
      exits = np.full(num_seeds, number, np.int32)
      alone[path] = run_exit(variables, {**hparams, 'exit': exits})
    return dataclasses.replace(run(variables, hparams), unimodal=alone)

  return run_all


def _check_finite(stage: Stage, split: Split, finite: np.ndarray) -> None:
  """No score can be trusted that counts such examples, so there is none."""
  bad = ~finite.all(axis=0)
  if bad.any():
    raise NonFiniteError(
      f'Stage {stage.name!r}: its model gives logits that are not finite for '
      f'{bad.sum()} of {bad.size} examples, {split.ids[bad][:NAMED].tolist()}. Correct '
      'or remove them, or train with a lower optimizer.learning_rate.'
    )


def _kept_logits(task: Task, outputs: Outputs, batch: Batch) -> jax.Array:
  return task.kept(outputs.logits, batch)


def _kept(task: Task, outputs: Outputs, batch: Batch) -> Outputs:
  logits, experts = jax.tree.map(
    lambda x: task.kept(x, batch), (outputs.logits, dict(outputs.unimodal))
  )
  return dataclasses.replace(outputs, logits=logits, unimodal=experts, hidden=None)


def read_hparams(folder: Path) -> dict[str, np.ndarray]:
  """What a finished stage was evaluated with, `[S]` each.

  Raises:
    DataError: its result is missing or damaged.
  """
  result = read_json(folder / RESULT)
  return {name: np.asarray(value) for name, value in result['hparams'].items()}
