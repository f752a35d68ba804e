"""A finished stage's outputs on every example of a split."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdyn.build import Stage
from jdyn.data.dataset import Split
from jdyn.models.input_names import input_names
from jdyn.training.parallel import Parallel
from jdyn.training.programs import Evaluator
from jdyn.typing import Outputs


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
  keep: Callable[[Outputs], Any] = lambda outputs: dataclasses.replace(
    outputs, hidden=None
  ),
) -> Callable[[Any, Mapping[str, np.ndarray]], Any]:
  """`(variables, hparams) -> outputs`, compiled once for many of both.

  Args:
    stage: whose model it is.
    split: of the dataset; modalities that are not there are absent.
    num_seeds: S.
    parallel: how the batch lies on the devices.
    device_bytes: a split larger than this is fed from the host.
    keep: what of the outputs is wanted; hidden states are large and left out.
  """
  names = [name for name in input_names(stage.model) if name in split.inputs]
  evaluator = Evaluator(
    stage.model,
    split.only(names),
    parallel,
    num_seeds,
    task=stage.task,
    terms={},
    batch_size=stage.batch_size,
    device_bytes=device_bytes,
    keep=keep,
  )
  return lambda variables, hparams: evaluator(variables, hparams, {})[1]


def read_hparams(folder: Path) -> dict[str, np.ndarray]:
  """What a finished stage was evaluated with, `[S]` each."""
  result = json.loads((folder / 'result.json').read_text())
  return {name: np.asarray(value) for name, value in result['hparams'].items()}
