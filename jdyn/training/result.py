"""What a trained stage leaves: its best variables, predictions and scores."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from jdyn import build
from jdyn.data.dataset import Split
from jdyn.evaluators.predictions import (
  convergence_warning,
  from_outputs,
  score_all,
)
from jdyn.evaluators.run_files import predictions_file, write_result
from jdyn.training import hosts, selection, variables
from jdyn.training.context import Context
from jdyn.training.predict import predictor

_LOG = logging.getLogger(__name__)

_SPLITS = ('valid', 'test')


def write_results(
  stages: Sequence[build.Stage],
  splits: Mapping[str, Split],
  experts: Mapping[str, Any],
  best: selection.Best,
  hparams: Mapping[str, np.ndarray],
  contexts: Sequence[Context],
) -> None:
  """Writes the results of the variants of a stage, each into its own folder.

  Args:
    stages: the variants, whose models are the same.
    splits: whole ones, with everything that a model reads.
    experts: variables `[S, ...]` of the stage's experts, by path.
    best: epoch of each member, `[M, ...]`.
    hparams: of each member at that epoch, `[M]`.
    contexts: of the variants.
  """
  first, run = stages[0], contexts[0].run
  predict = {
    name: predictor(
      first,
      splits[name],
      len(run.seeds),
      parallel=contexts[0].parallel,
      device_bytes=run.device_bytes,
    )
    for name in _SPLITS
  }
  for v, (stage, context) in enumerate(zip(stages, contexts, strict=True)):
    own, values = jax.tree.map(lambda x, v=v: x[v :: len(stages)], (best, hparams))
    whole = variables.join(own.variables, experts if stage.frozen else {})
    variables.save_best(context.folder(stage), int(np.max(own.epoch)), whole)
    outputs = {name: predict[name](whole, values) for name in _SPLITS}
    title = f'Stage {stage.name}' if len(stages) == 1 else context.workdir.name
    hosts.first_alone(
      partial(_write, stage, splits, outputs, own.epoch, values, context, title)
    )


def _write(
  stage: build.Stage,
  splits: Mapping[str, Split],
  outputs: Mapping[str, Any],
  best_epoch: np.ndarray,
  hparams: Mapping[str, np.ndarray],
  context: Context,
  title: str,
) -> None:
  """Writes predictions and result of one variant, and says how good it is."""
  folder = context.folder(stage)
  scores, predictions = {}, {}
  for name in _SPLITS:
    about = {'stage': stage.name, 'split': name}
    predictions[name] = from_outputs(
      outputs[name], splits[name], stage.task, about, stage.budget_paths
    )
    predictions[name].save(folder / predictions_file(name))
    scores[name] = score_all(
      predictions[name], stage.task, stage.costs.paths, stage.costs.total
    )
  result = {
    'stage': stage.name,
    'task': type(stage.task).__name__.lower(),
    'origin': context.dataset.origin,
    'seeds': list(context.run.seeds),
    'select': stage.select,
    'best_epoch': best_epoch.tolist(),
    'hparams': {key: value.tolist() for key, value in hparams.items()},
    'parameters': stage.costs.parameters,
    'macs': {'total': stage.costs.total, 'paths': dict(stage.costs.paths)},
    'splits': scores,
  }
  write_result(folder, result)
  if warning := convergence_warning(predictions):
    _LOG.warning('%s: %s', title, warning)
  _LOG.info(
    '%s: test %s %.4f, %s MACs per example.',
    title,
    stage.task.main_score,
    scores['test']['interval'][stage.task.main_score]['mean'],
    f'{np.mean(scores["test"]["macs"]):,.0f}',
  )
