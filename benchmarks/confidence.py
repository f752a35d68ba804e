"""Confidence and products on real data, clean and corrupted: who keeps its promise?

  python -m benchmarks.confidence mosi rosmap avmnist --data DIR [--json FILE]

DIR holds one folder per dataset, in the layout that its source reads. All methods
share encoders, optimiser and epochs, and select on the validation split. The test split
is corrupted by preset `severity` (features at level 5: Gaussian noise of one standard
deviation, level 10: of two), each example and modality with probability one half, under
several noise seeds; scores are means over these. Printed are, with 95 % t-intervals
over seeds, test accuracy, the worst of all seeds and noise seeds, and expected
calibration error; paired differences from late fusion with unimodal losses, with 95 %
bootstrap intervals over seeds and examples; and what the weights do. The JSON rows also
have negative log-likelihoods, p-values and all levels.
"""

import argparse
import dataclasses
import importlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from scipy.stats import spearmanr

from benchmarks.rows import row, write_rows
from jdyn import build
from jdyn.data.corruptions import Noise, corrupt, measure, touched
from jdyn.data.dataset import Dataset, Split
from jdyn.data.load import load
from jdyn.evaluators import confidence
from jdyn.evaluators.predictions import Predictions
from jdyn.inference import TrainedRun
from jdyn.metrics import calibration
from jdyn.metrics.interval import summarize
from jdyn.metrics.paired import paired_bootstrap
from jdyn.tasks import Task
from jdyn.training import cli
from jdyn.training.loop import train

METHODS: dict[str, tuple[str, dict[str, object]]] = {
  'late fusion': ('latefusion', {}),
  'late fusion, unimodal losses': ('latefusion', {'loss.per_expert': 1.0}),
  'QMF': ('qmf', {}),
  'QMF, released margin': ('qmf', {'loss.rank_margin': 'repo'}),
  'QMF, no ranking': ('qmf', {'loss.rank': 0.0}),
  'TMC': ('tmc', {}),
  'PDF': ('pdf', {}),
  'intra': ('intra', {}),
  'inter': ('concat', {}),
  'I2M2': ('i2m2', {}),
}
"""Config and what differs from it, by method; the unimodal ones come before."""

Key = tuple[float, int]
"""Level, and seed of the noise."""

BASELINE = 'late fusion, unimodal losses'
LEVELS = (0.0, 5.0, 10.0)
NOISE_SEEDS = (0, 1, 2)

# Seeds of convolutional networks run one after another: vmap makes grouped
# convolutions of theirs, which are several times slower on CPU.
ONE_BY_ONE = ('avmnist',)
# Short, for the CPU: of every stage.
EPOCHS = {'avmnist': 3}


def settings(
  data: str, method: str, root: Path | str, seeds: Sequence[int]
) -> ConfigDict:
  """The config of a method, or of the model of one modality, with these seeds."""
  kind, changes = METHODS.get(method, ('latefusion', {}))
  config = importlib.import_module(f'configs.{data}_{kind}').get_config()
  if method not in METHODS:
    config.model = config.model.experts[method]
  config.data.root = str(root)
  config.seed, config.num_seeds = seeds[0], len(seeds)
  config.update_from_flattened_dict(changes)
  if data in EPOCHS:
    for stage in (config, *config.experts.values()):
      stage.epochs = EPOCHS[data]
  return config.lock()


def methods(data: str) -> list[str]:
  """The models of one modality, and all methods."""
  config = importlib.import_module(f'configs.{data}_latefusion').get_config()
  return [*sorted(config.model.experts), *METHODS]


def groups(data: str, num_seeds: int) -> list[list[int]]:
  """Seeds that are trained in one program."""
  seeds = list(range(num_seeds))
  return [[seed] for seed in seeds] if data in ONE_BY_ONE else [seeds]


@dataclasses.dataclass(frozen=True)
class Tests:
  """The test split at every level and noise seed, and which examples were touched.

  Attributes:
    dataset: its one split `test` holds them all, one behind the other.
    keys: in their order.
    touched: by key and modality.
  """

  dataset: Dataset
  keys: Sequence[Key]
  touched: Mapping[Key, Mapping[str, np.ndarray]]


def corrupted(data: str, root: Path) -> Tests:
  """The test split, clean and with every noise."""
  source = build.source(settings(data, BASELINE, root, [0]))
  dataset = load(source, str(root), cache=root)
  references = measure(dataset.splits['train'], tuple(dataset.spec.modalities))
  clean = dataset.splits['test']
  splits, touched_by = {(0.0, 0): _decoded(clean)}, {}
  for level in LEVELS[1:]:
    for noise_seed in NOISE_SEEDS:
      noise = Noise('severity', level, (), noise_seed)
      key = level, noise_seed
      splits[key] = corrupt(clean, noise, references)
      touched_by[key] = touched(clean, noise, references)
  whole = jax.tree.map(
    lambda *parts: np.concatenate(parts),
    *({'inputs': dict(s.inputs), 'label': s.label} for s in splits.values()),
  )
  ids = [f'{key}/{name}' for key, split in splits.items() for name in split.ids]
  one = Split(whole['inputs'], whole['label'], np.array(ids))
  one = dataclasses.replace(dataset, splits={'test': one})
  return Tests(one, list(splits), touched_by)


def _decoded(split: Split) -> Split:
  inputs = split.select(np.arange(len(split))).inputs
  inputs = split.decode(inputs) if split.decode else inputs
  return dataclasses.replace(split, inputs=inputs, decode=None)


def predictions(
  data: str, method: str, root: Path, num_seeds: int, out: Path, tests: Tests
) -> tuple[dict[Key, Predictions], Task]:
  """All seeds' predictions by level and noise seed; what is done is not done again."""
  found: dict[Key, list[Predictions]] = {key: [] for key in tests.keys}
  for seeds in groups(data, num_seeds):
    workdir = out / data / method.replace(', ', '-').replace(' ', '_') / f'{seeds[0]}'
    config, file = settings(data, method, root, seeds), workdir / 'severities.npz'
    if not file.exists():
      train(config, workdir)
      TrainedRun(workdir).evaluate(tests.dataset).save(file)
    whole = Predictions.load(file)
    size = len(whole.ids) // len(tests.keys)
    for k, key in enumerate(tests.keys):
      found[key].append(_part(whole, slice(k * size, (k + 1) * size)))
  task = build.stage(config, tests.dataset.spec).task
  return {key: _merge(parts) for key, parts in found.items()}, task


def _part(made: Predictions, rows: slice) -> Predictions:
  """The predictions on some of the examples."""

  def take(name: str):
    value = getattr(made, name)
    if isinstance(value, Mapping):
      return {key: x[:, rows] for key, x in value.items()}
    return value[:, rows] if name == 'logits' else value[rows]

  return dataclasses.replace(made, **{name: take(name) for name in (*_BY_SEED, *_ONCE)})


_BY_SEED = ('logits', 'expert_logits', 'weights', 'evidence')
_ONCE = ('ids', 'label')


def _merge(parts: Sequence[Predictions]) -> Predictions:
  """Predictions of different seeds as one."""

  def join(name: str):
    values = [getattr(part, name) for part in parts]
    if isinstance(values[0], Mapping):
      return {key: np.concatenate([v[key] for v in values]) for key in values[0]}
    return np.concatenate(values)

  return dataclasses.replace(parts[0], **{name: join(name) for name in _BY_SEED})


def correct(made: Predictions) -> np.ndarray:
  """Whether each seed is right on each example: `f64[S, N]`."""
  return (made.logits.argmax(-1) == made.label).astype(np.float64)


def per_seed(found: Sequence[Predictions], score) -> np.ndarray:
  """A score `(logits, label)` by seed, mean over noise seeds: `[S]`."""
  return np.mean(
    [[score(logits, made.label) for logits in made.logits] for made in found], axis=0
  )


def rows_of(
  data: str,
  method: str,
  found: Mapping[Key, Predictions],
  baseline: Mapping[Key, Predictions],
) -> list[dict]:
  """A row per level."""
  rows = []
  for level in LEVELS:
    here = [made for (at, _), made in found.items() if at == level]
    there = [made for (at, _), made in baseline.items() if at == level]
    right = np.stack([correct(made) for made in here])  # [R, S, N]
    accuracy = summarize(right.mean(axis=(0, 2)))
    nll = summarize(per_seed(here, calibration.nll))
    ece = summarize(per_seed(here, calibration.ece))
    than = np.stack([correct(made) for made in there])
    difference = paired_bootstrap(right.mean(0) - than.mean(0))
    rows.append(
      row(
        f'{data}/{method}/severity {level:g}',
        100 * accuracy.mean,
        'test accuracy in %',
        half_width=100 * (accuracy.high - accuracy.mean),
        worst=100 * float(right.mean(axis=2).min()),
        nll=nll.mean,
        nll_half_width=nll.high - nll.mean,
        ece=100 * ece.mean,
        ece_half_width=100 * (ece.high - ece.mean),
        difference=100 * difference.mean,
        difference_low=100 * difference.low,
        difference_high=100 * difference.high,
        p=difference.p,
        n=right.shape[2],
        seeds=accuracy.count,
        noise_seeds=len(here),
      )
    )
  return rows


def weight_rows(
  data: str, method: str, found: Mapping[Key, Predictions], task: Task, tests: Tests
) -> list[dict]:
  """What the weights of a method do: a row per level."""
  rows = []
  for level in LEVELS:
    key = level, NOISE_SEEDS[0]
    made = found[key]
    losses = confidence.expert_losses(made, task)
    covariance = confidence.fusion_covariance(made.weights, losses)
    terms = {'covariance': float(np.mean(sum(covariance.values())))}
    for name in sorted(made.weights):
      both = zip(made.weights[name], losses[name], strict=True)
      terms[f'correlation/{name}'] = float(
        np.mean([spearmanr(weight, loss).statistic for weight, loss in both])
      )
    if level:
      areas = confidence.selective_weight_auroc(made.weights, tests.touched[key])
      terms |= {f'auroc/{name}': float(np.mean(area)) for name, area in areas.items()}
    if method.startswith('QMF'):
      gain = confidence.dynamic_minus_static(made, task)
      terms |= {
        f'gain/{end}': 100 * getattr(gain.correct, end)
        for end in ('mean', 'low', 'high')
      }
    name = f'{data}/{method}/weights, severity {level:g}'
    rows.append(row(name, terms['covariance'], 'sum of covariances, weight and loss'))
    rows[-1] |= terms
  return rows


def benchmark(data: str, root: Path, num_seeds: int, out: Path) -> list[dict]:
  """All rows of one dataset."""
  tests, found = corrupted(data, root), {}
  for method in methods(data):
    logging.info('%s: %s', data, method)
    found[method], task = predictions(data, method, root, num_seeds, out, tests)
  rows = []
  for method, made in found.items():
    rows += rows_of(data, method, made, found[BASELINE])
  for method in ('QMF', 'QMF, released margin', 'QMF, no ranking', 'TMC'):
    rows += weight_rows(data, method, found[method], task, tests)
  return rows


def print_tables(rows: Sequence[Mapping]) -> None:
  """A line of scores per method, and then what weights do; the rest is in the rows."""
  scores = {tuple(one['name'].split('/')): one for one in rows if 'worst' in one}
  for data in dict.fromkeys(key[0] for key in scores):
    here = {key[1:]: one for key, one in scores.items() if key[0] == data}
    one = next(iter(here.values()))
    print(f'\n{data}: n = {one["n"]}, {one["seeds"]} seeds; columns by severity\n')
    columns = [f'{kind} {level:g}' for kind, level in _COLUMNS]
    print(f'| method | {" | ".join(columns)} |')
    print('|---' * (len(columns) + 1) + '|')
    for method in dict.fromkeys(key[0] for key in here):
      cells = [
        _CELLS[kind](here[method, f'severity {level:g}']) for kind, level in _COLUMNS
      ]
      print(f'| {method} | {" | ".join(cells)} |')
  for one in rows:
    if 'worst' not in one:
      parts = ('covariance', 'correlation', 'auroc', 'gain')
      terms = [f'{k} {v:.3g}' for k, v in one.items() if k.split('/')[0] in parts]
      print(f'{one["name"]}: {", ".join(terms)}')


_COLUMNS = (
  *(('accuracy', level) for level in LEVELS),
  ('worst', LEVELS[-1]),
  *(('ECE', level) for level in (LEVELS[0], LEVELS[-1])),
  *(('against the baseline', level) for level in (LEVELS[0], LEVELS[-1])),
)
_CELLS = {
  'accuracy': lambda one: f'{one["value"]:.1f} ± {one["half_width"]:.1f}',
  'worst': lambda one: f'{one["worst"]:.1f}',
  'ECE': lambda one: f'{one["ece"]:.1f}',
  'against the baseline': lambda one: (
    f'{one["difference"]:+.1f} ({one["difference_low"]:+.1f} to '
    f'{one["difference_high"]:+.1f})'
  ),
}


def main() -> None:
  """Prints the tables."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('datasets', nargs='+')
  parser.add_argument('--data', type=Path, required=True)
  parser.add_argument('--seeds', type=int, default=10)
  parser.add_argument('--out', type=Path, default=Path('runs/confidence'))
  parser.add_argument('--json', type=Path)
  options = parser.parse_args()
  cli.start_logging()
  cli.use_cache('~/.cache/jdyn/xla')
  rows = []
  for data in options.datasets:
    rows += benchmark(data, options.data / data, options.seeds, options.out)
  print_tables(rows)
  if options.json:
    write_rows(options.json, rows)


if __name__ == '__main__':
  main()
