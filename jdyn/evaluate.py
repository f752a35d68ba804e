"""`python -m jdyn.evaluate --workdir W`: scores of a finished run on any split.

Prints the scores of the model, of each path alone and of their average, with 95 %
intervals over seeds, and writes scores (JSON), predictions (.npz) and one record per
example and seed (CSV) to W/evaluations.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> None:
  """Parses the command line and evaluates; exits with 1 on bad input."""
  parser = argparse.ArgumentParser(prog='python -m jdyn.evaluate', description=__doc__)
  add = parser.add_argument
  add('--workdir', type=Path, required=True, help='folder of the run')
  add('--stage', default='main', help='main, or the name of an expert (%(default)s)')
  add('--split', default='test', help='train, valid or test (%(default)s)')
  add('--root', default='', help='folder of the data, if not where it was trained from')
  add('--corruption', default='', help='gaussian, mask, missing or salt_pepper')
  add('--level', type=float, default=0.0, help='of the corruption, in its unit')
  add('--modalities', default='', help='comma-separated, to corrupt; all if empty')
  add('--budget', default='', help='MACs per example for the gate to keep to, as 5M')
  add('--noise-seed', type=int, default=0, help='of the corruption (%(default)s)')
  options = parser.parse_args(arguments)
  # Imports wait until here, so that --help is quick.
  from jdyn.training.checkpoint import CheckpointError
  from jdyn.training.workdir import WorkdirError

  try:
    _evaluate(options)
  except (ValueError, CheckpointError, WorkdirError) as error:
    parser.exit(1, f'error: {error}\n')


def _evaluate(options: argparse.Namespace) -> None:
  from jdyn.evaluators.predictions import score_all
  from jdyn.inference import TrainedRun
  from jdyn.training.logging import write_json

  run = TrainedRun(options.workdir, options.stage)
  predictions = run.evaluate(
    run.dataset(options.root),
    options.split,
    corruption=options.corruption,
    level=options.level,
    modalities=tuple(filter(None, options.modalities.split(','))),
    noise_seed=options.noise_seed,
    budget=options.budget or None,
  )
  costs = run.stage.costs
  scores = score_all(predictions, run.stage.task, costs.paths, costs.total)
  name = f'{options.stage}_{options.split}'
  if options.corruption:
    name += f'_{options.corruption}_{options.level:g}'
  if options.budget:
    name += f'_budget_{options.budget.replace(" ", "")}'
  folder = options.workdir / 'evaluations'
  folder.mkdir(exist_ok=True)
  write_json(folder / f'{name}.json', {'about': dict(predictions.about), **scores})
  predictions.save(folder / f'{name}.npz')
  _write_records(folder / f'{name}.csv', predictions, run)
  print(_table(scores, predictions.about, costs))
  if options.budget:
    print(_delivered(predictions.about['budget_macs'], scores['macs']))
  print(f'Written: {folder / name}.{{json,npz,csv}}')


def _write_records(path: Path, predictions, run) -> None:
  """One row per seed and example: what was predicted, by which path."""
  import numpy as np

  paths = sorted(predictions.weights)
  with open(path, 'w', newline='') as file:
    writer = csv.writer(file)
    experts = sorted(predictions.expert_logits)
    writer.writerow(
      ['seed', 'id', 'label', 'prediction']
      + [f'prediction/{name}' for name in experts]
      + [f'weight/{name}' for name in paths]
    )
    for s, seed in enumerate(run.seeds):
      decide = run.stage.task.predict
      columns = [np.asarray(decide(predictions.logits[s]))]
      columns += [
        np.asarray(decide(predictions.expert_logits[name][s])) for name in experts
      ]
      weights = [predictions.weights[name][s] for name in paths]
      for row, key in enumerate(predictions.ids):
        values = [_cell(column[row]) for column in [predictions.label, *columns]]
        writer.writerow([seed, key, *values, *(f'{w[row]:.4g}' for w in weights)])


def _cell(value) -> str:
  """A number, or the numbers of a multi-hot row."""
  return ' '.join(f'{v:g}' for v in value) if value.ndim else f'{value:g}'


def _table(scores, about, costs) -> str:
  """The scores as text: a line per path."""
  from jdyn.metrics.interval import summarize

  names = list(scores['model'])
  title = ', '.join(f'{key} {value}' for key, value in about.items())
  lines = [f'{title}; n = {scores["n"]}']
  lines.append(f'{"":12}{"MACs":>12}' + ''.join(f'{name:>22}' for name in names))
  everything = [float(costs.total)] * len(scores['macs'])
  rows = [('model', scores['macs'], scores['model'])]
  rows += [
    (path, [costs.paths.get(path, costs.total)], values)
    for path, values in scores['paths'].items()
  ]
  if 'uniform' in scores:
    rows.append(('uniform', everything, scores['uniform']))
  for label, macs, values in rows:
    cells = []
    for name in names:
      found = summarize(values[name])
      spread = '' if found.count == 1 else f' ± {found.high - found.mean:.4f}'
      cells.append(f'{found.mean:.4f}{spread}')
    mean = sum(macs) / len(macs)
    lines.append(f'{label:12}{mean:12,.0f}' + ''.join(f'{cell:>22}' for cell in cells))
  return '\n'.join(lines)


def _delivered(asked: float, macs: Sequence[float]) -> str:
  """How close every seed came to the budget."""
  mean = sum(macs) / len(macs)
  ends = [f'{100 * (end / asked - 1):+.2f} %' for end in (min(macs), max(macs))]
  return (
    f'MACs per example: asked {asked:,.0f}, delivered {mean:,.0f} '
    f'({ends[0] if len(macs) == 1 else f"{ends[0]} to {ends[1]} by seed"})'
  )


if __name__ == '__main__':
  main(sys.argv[1:])
