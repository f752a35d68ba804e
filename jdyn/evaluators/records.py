"""One record per example and seed, as CSV: what was predicted, and how."""

import csv
from collections.abc import Sequence
from pathlib import Path

from jdyn.evaluators.predictions import Predictions
from jdyn.tasks import Task


def write_records(
  path: Path, predictions: Predictions, seeds: Sequence[int], task: Task
) -> None:
  """Writes the records, in the order of the seeds and of the examples.

  Columns of paths and of the solvers' blocks are there where the model has some.

  Args:
    path: of the file.
    predictions: of one split.
    seeds: of the predictions' axis `S`.
    task: decides what logits predict.
  """
  paths, experts = sorted(predictions.weights), sorted(predictions.expert_logits)
  solvers = {
    f'{what}/{block}': found[what]
    for block, found in predictions.blocks.items()
    for what in ('steps', 'converged')
  }
  with open(path, 'w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(
      ['seed', 'id', *task.record_names]
      + [f'{task.record_names[-1]}/{name}' for name in experts]
      + [f'weight/{name}' for name in paths]
      + list(solvers)
    )
    label = predictions.label
    for s, seed in enumerate(seeds):
      columns = task.records(predictions.logits[s], label)
      for name in experts:
        columns.append(task.records(predictions.expert_logits[name][s], label)[-1])
      weights = [predictions.weights[name][s] for name in paths]
      for row, key in enumerate(predictions.ids):
        values = [_cell(column[row]) for column in columns]
        values += [f'{weight[row]:.4g}' for weight in weights]
        values += [f'{found[s, row]:g}' for found in solvers.values()]
        writer.writerow([seed, key, *values])


def _cell(value) -> str:
  """A number, or the numbers of a multi-hot row."""
  return ' '.join(f'{v:g}' for v in value) if value.ndim else f'{value:g}'
