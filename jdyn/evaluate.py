"""`python -m jdyn.evaluate --workdir W`: a finished run on any split, or by the clock.

Prints the scores of the model, of each path alone and of their average, with 95 %
intervals over seeds, and writes scores (JSON), predictions (.npz) and one record per
example and seed (CSV) to W/evaluations. With --budget, --batch-size or --policy it
also says what an example costs. --subsets prints a line of scores for every set of
modalities that examples may have instead, --runs one over several noise seeds.
Examples that lack what the model needs are left out. --time measures batches of the
main model instead, writes W/latency.json and adds it to W/report.html.
"""

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

_OF_NOISE = ('level', 'modalities', 'noise_seed')
_OF_EXAMPLES = ('stage', 'split', 'root', 'corruption', *_OF_NOISE)

BATCH_SIZE = 128
"""Examples per batch where times are measured and no other size is given."""

WHOLE_PATHS = (
  'MACs are those of whole paths: a path is run with zeros for what is absent.'
)
"""Said of gated models where modalities are absent."""

CORRUPTIONS = """\
drop_steps, gaussian, mask, missing, pixel_gaussian, relative_gaussian, salt_pepper,
swap, white_noise, words; or a preset: severity, one_modality, dynmm_rgbd,
qmf_paper_gaussian, qmf_paper_salt, qmf_head_salt, qmf_rgbd_gaussian,
multibench_timeseries, multibench_affect, multibench_mimic, multibench_tabular"""
"""What --corruption takes. A test compares it with `jdyn.data.corruptions`."""


def main(arguments: Sequence[str] | None = None) -> None:
  """Parses the command line and evaluates; exits with 1 on bad input."""
  parser = argparse.ArgumentParser(prog='python -m jdyn.evaluate', description=__doc__)
  add = parser.add_argument
  add('--workdir', type=Path, required=True, help='folder of the run')
  add('--stage', default='main', help='main, or the name of an expert (%(default)s)')
  add('--split', default='test', help='train, valid or test (%(default)s)')
  add('--root', default='', help='folder of the data, if not where it was trained from')
  add('--corruption', default='', help=CORRUPTIONS)
  add('--level', type=float, default=0.0, help='of the corruption, in its unit')
  add('--present', default='', help='comma-separated modalities; the others are absent')
  add('--subsets', action='store_true', help='a table of every set that may be present')
  add('--modalities', default='', help='comma-separated, to corrupt; all if empty')
  add('--noise-seed', type=int, default=0, help='of the corruption (%(default)s)')
  add('--runs', type=_size, help='noise seeds, from --noise-seed on: mean and spread')
  add('--budget', default='', help='per example, for the gate to keep to: 5M or 0.3ms')
  add(
    '--batch-size',
    type=_size,
    help=f'of the batches that are timed ({BATCH_SIZE}, or the split if that is less)',
  )
  add(
    '--policy', help='that runs them: auto, dense, switch, ladder, buckets, each (auto)'
  )
  add('--time', type=_sizes, help='comma-separated batch sizes, as 1,32,128; no scores')
  options = parser.parse_args(arguments)
  if options.time and (besides := _besides(parser, options, ('time',))):
    parser.error(f'--time measures random inputs; leave out {", ".join(besides)}.')
  if options.subsets and (
    besides := _besides(parser, options, ('subsets', *_OF_EXAMPLES))
  ):
    parser.error(
      f'--subsets evaluates every set whole; leave out {", ".join(besides)}.'
    )
  if options.runs and (besides := _besides(parser, options, ('runs', *_OF_EXAMPLES))):
    parser.error(f'--runs repeats a corruption; leave out {", ".join(besides)}.')
  if options.runs and not options.corruption:
    parser.error('--runs repeats a corruption with other noise; give --corruption.')
  if not options.corruption and (idle := _given(parser, options, _OF_NOISE)):
    parser.error(f'{", ".join(idle)}: of which corruption? Give --corruption.')
  # Imports wait until here, so that --help is quick.
  from jdyn.training.checkpoint import CheckpointError
  from jdyn.training.workdir import WorkdirError

  try:
    given = {_time: options.time, _subsets: options.subsets, _runs: options.runs}
    command = next((each for each, asked in given.items() if asked), _evaluate)
    command(options)
  except (ValueError, OSError, CheckpointError, WorkdirError) as error:
    parser.exit(1, f'error: {error}\n')


def _size(text: str) -> int:
  if not text.isdecimal() or not int(text):
    raise argparse.ArgumentTypeError(f'{text!r} is no number of examples')
  return int(text)


def _sizes(text: str) -> list[int]:
  return [_size(part.strip()) for part in text.split(',')]


def _besides(
  parser: argparse.ArgumentParser, options: argparse.Namespace, used: Sequence[str]
) -> list[str]:
  """Options that were given though those that are `used` leave no use for them."""
  others = set(vars(options)) - {'workdir', *used}
  return _given(parser, options, others)


def _given(
  parser: argparse.ArgumentParser, options: argparse.Namespace, names: Collection[str]
) -> list[str]:
  """Options among `names` that are not as they are by default."""
  return [
    f'--{name.replace("_", "-")}'
    for name, value in vars(options).items()
    if name in names and value != parser.get_default(name)
  ]


def _evaluate(options: argparse.Namespace) -> None:
  from jdyn.data.sealed import write_sealed
  from jdyn.evaluators.budget import parse_budget
  from jdyn.evaluators.predictions import convergence_warning, score_all
  from jdyn.evaluators.records import write_records
  from jdyn.evaluators.tables import as_text, score_table
  from jdyn.inference import TrainedRun

  in_ms = options.budget and parse_budget(options.budget).unit == 'ms'
  run = TrainedRun(options.workdir, options.stage)
  dataset = run.dataset(options.root)
  noise, present = _noise(options), _names(options.present) or None
  budget, times = options.budget or None, None
  if in_ms or options.batch_size or options.policy:
    examples = run.judged(run.examples(dataset, options.split, noise), present)
    valid = run.judged(dataset.splits['valid'], present)
    budget, times = _measured(run, valid, examples, options)
  predictions = run.evaluate(dataset, options.split, noise, budget, present)
  costs = run.costs_with(present)
  scores = score_all(predictions, run.stage.task, costs.paths, costs.total)
  name = _name(options)
  if present:
    name += f'_present_{"+".join(sorted(present))}'
  if options.budget:
    name += f'_budget_{options.budget.replace(" ", "")}'
  folder = options.workdir / 'evaluations'
  folder.mkdir(exist_ok=True)
  about = {**predictions.about, **({'time': times} if times else {})}
  others = folder / f'{name}.npz', folder / f'{name}.csv'
  predictions.save(others[0])
  write_records(others[1], predictions, run.seeds, run.stage.task)
  write_sealed(folder / f'{name}.json', {'about': about, **scores}, others)
  print(f'{_title(predictions.about)}; n = {scores["n"]}')
  if present and run.conditional:
    print(WHOLE_PATHS)
  print(as_text(score_table(scores, costs.paths, costs.total)))
  if warning := convergence_warning({options.split: predictions}):
    print(warning)
  if budget is not None:
    print(_delivered(predictions.about['budget_macs'], scores['macs']))
  if times:
    print(_timed(times))
  print(f'Written: {folder / name}.{{json,npz,csv}}')


def _names(text: str) -> tuple[str, ...]:
  return tuple(filter(None, text.split(',')))


def _noise(options: argparse.Namespace):
  from jdyn.data.corruptions import Noise

  if not options.corruption:
    return None
  modalities = _names(options.modalities)
  return Noise(options.corruption, options.level, modalities, options.noise_seed)


def _name(options: argparse.Namespace) -> str:
  """Of the files that hold an evaluation: other examples have another name."""
  from jdyn.evaluators.tables import label

  name = f'{options.stage}_{options.split}'
  if options.corruption:
    name += f'_{options.corruption}_{label(options.level)}'
    if modalities := _names(options.modalities):
      name += f'_{"+".join(sorted(modalities))}'
    if options.noise_seed:
      name += f'_seed_{options.noise_seed}'
  return name


def _title(about: Mapping[str, Any]) -> str:
  return ', '.join(f'{key} {value}' for key, value in about.items())


def _subsets(options: argparse.Namespace) -> None:
  """Scores with every set of modalities by which a model can judge some examples."""
  from jdyn.data.sealed import write_sealed
  from jdyn.evaluators.attendance import judgeable, subsets
  from jdyn.evaluators.predictions import score_all
  from jdyn.evaluators.tables import as_text, subset_table
  from jdyn.inference import TrainedRun
  from jdyn.models.input_names import input_names

  run = TrainedRun(options.workdir, options.stage)
  dataset, model = run.dataset(options.root), run.stage.model
  examples, names, found = run.examples(dataset, options.split), input_names(model), {}
  sets = [s for s in subsets(names) if judgeable(model, examples.only(s)).any()]
  for present in sets or [names]:  # Without a set, evaluation says why.
    predictions = run.evaluate(dataset, options.split, _noise(options), present=present)
    costs = run.costs_with(present)
    scores = score_all(predictions, run.stage.task, costs.paths, costs.total)
    found[', '.join(present)] = scores
  of_set = ('present', 'left_out')
  about = {k: value for k, value in predictions.about.items() if k not in of_set}
  folder = options.workdir / 'evaluations'
  folder.mkdir(exist_ok=True)
  file = folder / f'{_name(options)}_subsets.json'
  write_sealed(file, {'about': about, 'subsets': found})
  sizes = {scores['n'] for scores in found.values()}
  print(_title(about) + (f'; n = {sizes.pop()}' if len(sizes) == 1 else ''))
  if run.conditional and len(found) > 1:
    print(WHOLE_PATHS)
  print(as_text(subset_table(found)))
  print(f'Written: {file}')


def _runs(options: argparse.Namespace) -> None:
  """Scores under one corruption with several noise seeds."""
  from jdyn.data.sealed import write_sealed
  from jdyn.evaluators.predictions import score_all
  from jdyn.evaluators.tables import as_text, runs_table
  from jdyn.inference import TrainedRun

  run, noise = TrainedRun(options.workdir, options.stage), _noise(options)
  dataset, costs = run.dataset(options.root), run.stage.costs
  found = []
  for k in range(options.runs):
    drawn = dataclasses.replace(noise, seed=noise.seed + k)
    predictions = run.evaluate(dataset, options.split, drawn)
    found.append(score_all(predictions, run.stage.task, costs.paths, costs.total))
    print(f'\rrun {k + 1}/{options.runs}', end='', file=sys.stderr, flush=True)
  print('\r', end='', file=sys.stderr)
  folder = options.workdir / 'evaluations'
  folder.mkdir(exist_ok=True)
  name = f'{_name(options)}_{options.runs}_runs'
  about = {**predictions.about, 'noise_seed': noise.seed}  # The first.
  write_sealed(folder / f'{name}.json', {'about': about, 'runs': found})
  print(f'{_title(about)}; n = {found[0]["n"]}')
  print(
    f'Mean and standard deviation over {options.runs} noise seeds, of means over '
    f'{len(run.seeds)} seeds'
  )
  print(as_text(runs_table(found)))
  print(f'Written: {folder / name}.json')


def _measured(run, valid, examples, options) -> tuple[float | None, dict[str, Any]]:
  """The budget in MACs, and what an example takes within it."""
  from jdyn.evaluators.budget import parse_budget
  from jdyn.evaluators.latency import device_name
  from jdyn.inference import BATCHES

  size = options.batch_size or min(BATCH_SIZE, len(examples))
  timed = valid if len(valid) >= size else examples
  batches = list(itertools.islice(run.batches(timed, size), BATCHES))
  policy = options.policy or 'auto'
  if policy == 'auto':
    policy = run.fastest(batches[0])
  budget = asked_ms = None
  if options.budget:
    budget = run.macs(options.budget, batches, policy)
    asked = parse_budget(options.budget)
    asked_ms = asked.value if asked.unit == 'ms' else None
  policies = tuple(dict.fromkeys((policy, 'dense')))
  seconds = run.seconds(examples, size, policies, options.budget or None)
  return budget, {
    'device': device_name(),
    'seed': run.seeds[0],
    'batch_size': size,
    'policy': policy,
    'asked_ms': asked_ms,
    'ms': 1e3 * seconds[policy],
    'dense_ms': 1e3 * seconds['dense'],
  }


def _delivered(asked: float, macs: Sequence[float]) -> str:
  """How close every seed came to the budget."""
  mean = sum(macs) / len(macs)
  ends = [f'{100 * (end / asked - 1):+.2f} %' for end in (min(macs), max(macs))]
  return (
    f'MACs per example: asked {asked:,.0f}, delivered {mean:,.0f} '
    f'({ends[0] if len(macs) == 1 else f"{ends[0]} to {ends[1]} by seed"})'
  )


def _timed(times: Mapping[str, Any]) -> str:
  """Measured milliseconds, and under which circumstances."""
  asked, ms = times['asked_ms'], f'{times["ms"]:.4g}'
  if asked:
    off = 100 * (times['ms'] / asked - 1)
    ms = f'asked {asked:.4g}, delivered {ms} ({off:+.1f} %)'
  return (
    f'Milliseconds per example: {ms}; dense {times["dense_ms"]:.4g} (policy '
    f'{times["policy"]}, batches of {times["batch_size"]}, seed {times["seed"]}, '
    f'{times["device"]})'
  )


def _time(options: argparse.Namespace) -> None:
  from jdyn.data.sealed import write_sealed
  from jdyn.evaluators.latency import device_name
  from jdyn.evaluators.report import write_report
  from jdyn.evaluators.run_files import LATENCY
  from jdyn.evaluators.tables import as_text, latency_table
  from jdyn.inference import TrainedRun
  from jdyn.training.workdir import versions

  run = TrainedRun(options.workdir)
  batches = [run.time(size) for size in options.time]
  found = {
    'device': device_name(),
    'versions': versions(),
    'seed': run.seeds[0],
    'batches': batches,
  }
  write_sealed(options.workdir / LATENCY, found)
  costs = run.stage.costs
  print(f'Per example, on {found["device"]}, seed {found["seed"]}')
  print(as_text(latency_table(batches, costs.paths, costs.total)))
  print(f'Written: {options.workdir / LATENCY}, {write_report(options.workdir)}')


if __name__ == '__main__':
  main(sys.argv[1:])
