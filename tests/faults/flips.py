"""Flips bits and cuts files everywhere: damage is named, and never another value.

Makes a small run, interrupted and finished, a sweep's list, converted variables, and
prepared datasets, stand-ins and data of one's own in small. Of every file in these
folders, one after the other, a random bit is flipped or the end is cut off at a random
place. Then whatever in jdyn reads the file reads it, and it counts as survived if
that ends with an error that users see as one line and that names the file, or, where
there is an older checkpoint, with that one and a line in the log that names the file.

Nobody reads these, so they are left alone (`UNREAD`): the report, the tables of a
sweep, the environment of a run that has not ended, which is written anew each time,
TensorBoard's events, scores and records of `python -m jdyn.evaluate` and
`python -m jdyn.report compare`, the note about what was converted, the lock, and of the
mark of a stand-in anything but its name. What `export` returns is no file of ours.
"""

import argparse
import contextlib
import dataclasses
import functools
import itertools
import json
import logging
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import base
from jdyn import build
from jdyn.data.dataset import DataError, Source
from jdyn.data.load import load
from jdyn.data.preparation import MANIFEST, write_manifest
from jdyn.data.sealed import write_sealed
from jdyn.data.sources import SOURCES
from jdyn.evaluators.report.run import read_run
from jdyn.evaluators.run_files import LATENCY, LOG, RESULT, is_finished
from jdyn.training import loop, variables
from jdyn.training import stage as training_stage
from jdyn.training.checkpoint import CheckpointError, Checkpoints
from jdyn.training.context import Preempted, StopFlag
from jdyn.training.convert import convert_encoder
from jdyn.training.logging import LogMark, MetricLog
from jdyn.training.workdir import (
  SWEEP,
  WorkdirError,
  describe,
  describe_sweep,
  naming_changes,
)
from tests import toys
from tests.faults.table import Row
from tests.interop import torch_files
from tests.interop.released_esanet import Released

UNREAD = (
  *('report.html', 'results.csv', 'results.html', '.lock', 'events.out.tfevents.*'),
  *('environment.json', 'weights.json', 'SYNTHETIC_STAND_IN.txt'),
)
"""Names of files that people read and jdyn does not."""

_ONE_LINE = (CheckpointError, DataError, WorkdirError)


@dataclasses.dataclass(frozen=True)
class Target:
  """A file to be damaged.

  Attributes:
    kind: what it is; all of a kind share a row of the table.
    file: its path.
    name: what must be said.
    read: everything that reads it. Raises, or returns what was said of the damage.
  """

  kind: str
  file: Path
  name: str
  read: Callable[[], str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds how many bits are flipped and how many files are cut."""
  parser.add_argument('--flips', type=int, default=2000, help='bits (%(default)s)')
  parser.add_argument('--cuts', type=int, default=1200, help='files (%(default)s)')


def run(options: argparse.Namespace) -> Iterator[Row]:
  """One row per kind of file and of damage."""
  chance = random.Random(options.seed)
  with tempfile.TemporaryDirectory(prefix='jdyn-') as folder, _quietly():
    targets = make_targets(Path(folder))
    for damage, count in ((flip, options.flips), (cut, options.cuts)):
      yield from damage_all(targets, damage, count, chance)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
  """Without the lines that thousands of damaged files and stand-ins are worth."""
  logger = logging.getLogger('jdyn')
  propagate, logger.propagate = logger.propagate, False
  logger.addHandler(nothing := logging.NullHandler())
  logging.disable(logging.WARNING)
  try:
    yield
  finally:
    logging.disable(logging.NOTSET)
    logger.removeHandler(nothing)
    logger.propagate = propagate


def damage_all(
  targets: Sequence[Target],
  damage: Callable[[bytes, random.Random], bytes],
  count: int,
  chance: random.Random,
) -> Iterator[Row]:
  """Damages every file once, then one of every kind in turn, and counts by kind."""
  lost: dict[str, list[str]] = {target.kind: [] for target in targets}
  tried = dict.fromkeys(lost, 0)
  order = itertools.islice(_in_turn(targets, chance), count)
  for done, target in enumerate(order, 1):
    tried[target.kind] += 1
    if problem := try_one(target, damage, chance):
      lost[target.kind].append(f'{target.name}: {problem}')
    if done % 100 == 0:
      print(f'flips: {damage.__name__} {done}/{count}', file=sys.stderr)
  for kind, problems in lost.items():
    if tried[kind]:
      survived = tried[kind] - len(problems)
      fault = f'{kind}: {damage.__doc__.splitlines()[0].rstrip(".").lower()}'
      note = problems[0] if problems else ''
      yield Row('flips', fault, tried[kind], survived, len(problems), note)


def _in_turn(targets: Sequence[Target], chance: random.Random) -> Iterator[Target]:
  by_kind: dict[str, list[Target]] = {}
  for target in targets:
    by_kind.setdefault(target.kind, []).append(target)
  yield from chance.sample(targets, len(targets))
  for same in itertools.cycle(by_kind.values()):
    yield chance.choice(same)


def try_one(
  target: Target,
  damage: Callable[[bytes, random.Random], bytes],
  chance: random.Random,
) -> str:
  """Damages a file, has it read, and restores it; what went wrong, or ''."""
  whole = target.file.read_bytes()
  try:
    target.file.write_bytes(damage(whole, chance))
    try:
      said = target.read()
    except _ONE_LINE as error:
      said = str(error)
    except Exception as error:  # Whatever it is, it is lost.
      return f'{type(error).__name__}: {error}'[:200]
    return '' if target.name in said else f'not named; said {said[:200]!r}'
  finally:
    target.file.write_bytes(whole)


def flip(content: bytes, chance: random.Random) -> bytes:
  """One bit flipped."""
  damaged = bytearray(content)
  place = chance.randrange(8 * len(content))
  damaged[place // 8] ^= 1 << place % 8
  return bytes(damaged)


def cut(content: bytes, chance: random.Random) -> bytes:
  """Cut off."""
  return content[: chance.randrange(len(content))]


def make_targets(folder: Path) -> list[Target]:
  """Makes everything, and lists each file with what reads it.

  Raises:
    AssertionError: a file is neither read by anything nor in `UNREAD`.
  """
  made = [*_run_targets(folder / 'run'), *_sweep_targets(folder / 'sweep')]
  made += _converted_targets(folder / 'converted')
  made += _data_targets(folder / 'data')
  for target in {target.read: target for target in made}.values():
    whole = target.file.read_bytes()
    # Otherwise any error would count as found damage.
    assert 'damaged' not in target.read(), target
    target.file.write_bytes(whole)
  known = {target.file for target in made}
  for path in folder.rglob('*'):
    unread = any(path.match(pattern) for pattern in UNREAD)
    assert path in known or unread or path.is_dir(), f'who reads {path}?'
  return [target for target in made if target.file.stat().st_size]


def small_config() -> ConfigDict:
  """Two linear experts and a gate, saved after every second step."""
  experts = toys.LINEAR_EXPERTS['experts']
  config = toys.config(
    {**toys.LINEAR_EXPERTS, 'experts': {}}, steps_per_call=2, checkpoint_seconds=0.0
  )
  for path, model in experts.items():
    config.experts[path] = base.stage(ConfigDict(model))
    config.experts[path].update(batch_size=8, epochs=2)
  return config


class _StopAfter(StopFlag):
  """As if SIGTERM came after so many compiled calls."""

  def __init__(self, calls: int):
    self._left = calls
    super().__init__()

  @property
  def set(self) -> bool:
    self._left -= 1
    return self._left < 0

  @set.setter
  def set(self, value: bool) -> None:
    pass


def train_small(workdir: Path, calls: int | None = None) -> None:
  """Trains `small_config` on the toy data, to the end or for so many compiled calls."""
  with contextlib.ExitStack() as stack:
    patch = functools.partial(mock.patch.object, loop)
    stack.enter_context(patch('load', lambda *_, **__: toys.dataset()))
    # What a report reads is read below; drawing it takes seconds.
    stack.enter_context(patch('write_report', lambda workdir: workdir))
    if calls is not None:
      stack.enter_context(patch('StopFlag', lambda: _StopAfter(calls)))
      stack.enter_context(contextlib.suppress(Preempted))
    loop.train(small_config(), workdir)


def _run_targets(folder: Path) -> Iterator[Target]:
  """A run that was interrupted in its third stage, and the same one at its end."""
  begun, ended = folder / 'begun', folder / 'ended'
  with _noting_templates() as templates:
    train_small(begun, calls=16)
  shutil.copytree(begun, ended)
  train_small(ended)
  write_sealed(ended / LATENCY, _latency())
  main = build.stage(small_config(), toys.SPEC)
  for workdir in (begun, ended):
    for stage in build.all_stages(main):
      template = templates[begun / 'stages' / stage.name / 'checkpoints']
      yield from _stage_targets(workdir / 'stages' / stage.name, stage, template)
    config, data = small_config().to_dict(), toys.dataset()
    go_on = _quiet(describe, workdir, config, data)
    for name in ('config.json', 'data.json'):
      yield Target('run: what it is of', workdir / name, name, go_on)
  report = _quiet(read_run, ended)
  names = ('config.json', 'data.json', 'environment.json', LATENCY)
  for file in (*(ended / name for name in names), *_results(ended / 'stages')):
    name = str(file.relative_to(ended))
    yield Target('run: read by its report', file, name, report)
  start = _quiet(variables.load_pretrained, ended, '', main, toys.SPEC, seeds=(0,))
  yield Target('run: read by `pretrained`', ended / 'config.json', 'config.json', start)


@contextlib.contextmanager
def _noting_templates() -> Iterator[dict[Path, Any]]:
  """What stages restore, by the folder of their checkpoints."""
  found = {}

  class Noting(Checkpoints):
    def __init__(self, folder: Path, **options):
      self._folder = folder
      super().__init__(folder, **options)

    def restore(self, items):
      found[self._folder] = jax.tree.map(np.asarray, items)
      return super().restore(items)

  with mock.patch.object(training_stage, 'Checkpoints', Noting):
    yield found


def _stage_targets(folder: Path, stage: build.Stage, template: Any) -> Iterator[Target]:
  """What a stage left, finished or not."""
  place = folder / 'checkpoints'
  older, newest = sorted(int(path.stem) for path in (place / 'manifests').iterdir())
  saved, marks = {}, {}
  for step, hidden in ((newest, ()), (older, (newest,))):
    with _without(place, hidden), Checkpoints(place) as checkpoints:
      items, meta = checkpoints.restore(template)
    saved[step] = jax.tree.leaves(items)
    marks[step] = LogMark(**meta['logs'][0])
  for kind, step, hidden in (
    ('checkpoint: newest of two', newest, ()),
    ('checkpoint: the only whole one', older, (newest,)),
  ):
    read = functools.partial(_restore, place, template, saved, hidden)
    for file in _files(place):
      if file.stem == str(step) or f'steps/{step}/' in str(file):
        yield Target(kind, file, str(file.relative_to(place)), read)
  if not is_finished(folder):
    content = (folder / LOG).read_bytes()
    for step, mark in marks.items():
      read = functools.partial(_go_on, folder, step, mark, content[: mark.size])
      yield Target('log of an unfinished stage', folder / LOG, LOG, read)
    return
  skip = _quiet(is_finished, folder)
  for file in _results(folder):
    yield Target('stage: finished, at resume', file, file.name, skip)
  best = _quiet(variables.load_best, folder, stage, toys.SPEC, 1)
  for file in _files(folder / 'best'):
    yield Target('stage: its best variables', file, file.name, best)


@contextlib.contextmanager
def _without(folder: Path, steps: Sequence[int]) -> Iterator[None]:
  """Checkpoints as if some had never been saved."""
  manifests = [folder / 'manifests' / f'{step}.json' for step in steps]
  for path in manifests:
    path.rename(path.with_suffix('.hidden'))
  try:
    yield
  finally:
    for path in manifests:
      path.with_suffix('.hidden').rename(path)


def _restore(
  folder: Path,
  template: Any,
  saved: Mapping[int, Sequence[Any]],
  hidden: Sequence[int],
) -> str:
  """What restoring logs; what it restores must be what was saved then."""
  with (
    _logged() as said,
    _without(folder, hidden),
    Checkpoints(folder) as checkpoints,
  ):
    items, meta = checkpoints.restore(template)
  wanted = saved[meta['step']]
  for found, leaf in zip(jax.tree.leaves(items), wanted, strict=True):
    np.testing.assert_array_equal(found, leaf)
  return ' '.join(said)


@contextlib.contextmanager
def _logged() -> Iterator[list[str]]:
  """What jdyn logs as an error meanwhile."""
  said, logger = [], logging.getLogger('jdyn')
  handler = logging.Handler(logging.ERROR)
  handler.emit = lambda record: said.append(record.getMessage())
  propagate, logger.propagate = logger.propagate, False
  logger.addHandler(handler)
  try:
    yield said
  finally:
    logger.removeHandler(handler)
    logger.propagate = propagate


def _go_on(folder: Path, step: int, mark: LogMark, kept: bytes) -> str:
  """Opens the log of a stage that goes on; what comes after the mark is dropped."""
  after = (folder / LOG).read_bytes()[mark.size :]
  with mock.patch('jdyn.training.logging.Board'):
    MetricLog(folder, step, mark).close()
  assert (folder / LOG).read_bytes() == kept, 'another log'
  return f'{LOG}: dropped {len(after)} bytes' if after else ''


def _sweep_targets(folder: Path) -> Iterator[Target]:
  """What a sweep is of; its variants are runs."""
  folder.mkdir()
  what = {'config': small_config().to_dict(), 'swept': [['loss.budget', [0.0, 0.5]]]}
  describe_sweep(folder, what)
  go_on = _quiet(describe_sweep, folder, what)
  yield Target('sweep: what it is of', folder / SWEEP, SWEEP, go_on)


def _converted_targets(folder: Path) -> Iterator[Target]:
  """The variables of an encoder, as `convert --out` leaves them for `pretrained`."""
  folder.mkdir()
  out, rng = folder / 'out', np.random.default_rng(0)
  names = {**dict(Released('basic', (1, 1), (4, 5)).encoder('', 3))}
  shapes = {**names, 'fc.weight': (7, 5), 'fc.bias': (7,)}
  tensors = {name: rng.standard_normal(s, np.float32) for name, s in shapes.items()}
  path = torch_files.save(folder / 'resnet.pth', tensors)
  config = toys.config(toys.MODELS['esanet'], pretrained__rgb=str(out))
  convert_encoder('imagenet_resnet', path, config, 'rgb', out)
  path.unlink()
  stage = build.stage(config, toys.SCENES)
  ((place, where),) = stage.pretrained.items()
  read = _quiet(
    variables.load_pretrained, Path(where), place, stage, toys.SCENES, seeds=(0,)
  )
  for file in _files(out / 'best'):
    yield Target('converted variables', file, file.name, read)


def _data_targets(folder: Path) -> Iterator[Target]:
  """Prepared datasets, stand-ins, and data of one's own."""
  size = {'height': 24, 'width': 32}
  prepared: dict[str, list[Source]] = {
    'avmnist': [SOURCES['avmnist']()],
    'fastmri': [SOURCES['fastmri'](image_size=8)],
    'nyuv2': [
      SOURCES['nyuv2'](**size),
      SOURCES['nyuv2'](**size, depth='raw', num_classes=13),
    ],
    'sunrgbd': [SOURCES['sunrgbd'](**size), SOURCES['sunrgbd'](**size, depth='raw')],
  }
  for name, sources in prepared.items():
    root = folder / name
    root.mkdir(parents=True)
    sources[0].write_stand_in(root, seed=0)
    write_manifest(root, {'name': name})
    # Between them, they read all files.
    read = _quiet(_load_all, sources, root)
    for file in _files(root):
      yield Target(f'prepared {name}', file, str(file.relative_to(root)), read)
  for name in ('avmnist', 'fastmri'):
    (source,), cache = prepared[name], folder / 'stand_in'
    load(source, None, cache)
    (root,) = cache.glob(f'{name}-*')
    read = _quiet(load, source, None, cache)
    for file in _files(root):
      if not any(file.match(pattern) for pattern in UNREAD):
        yield Target('stand-in', file, str(file.relative_to(root)), read)
  own = {'avmnist': {}, 'mosi': {'label': 'real'}, 'rosmap': {}}
  for name, options in own.items():
    source = SOURCES[name](**options)
    root, workdir = folder / 'own' / name, folder / 'of' / name
    root.mkdir(parents=True)
    source.write_stand_in(root, seed=0)
    if name == 'avmnist':
      ids = {'train': [*range(600)], 'test': [*range(120)]}
      (root / MANIFEST).write_text(json.dumps({'ids': ids}))
    workdir.mkdir(parents=True)
    read = functools.partial(_resume_on, source, root, workdir)
    read()
    for file in _files(root):
      yield Target('own data, at resume', file, str(file.relative_to(root)), read)
    for file in (workdir / 'config.json', workdir / 'data.json'):
      yield Target('run: what it is of', file, file.name, read)


def _load_all(sources: Sequence[Source], root: Path) -> None:
  for source in sources:
    load(source, str(root), cache=root)


def _resume_on(source: Source, root: Path, workdir: Path) -> str:
  """Loads data and compares them with those with which a run began."""
  with naming_changes(workdir, str(root)):
    dataset = load(source, str(root), cache=workdir)
  describe(workdir, {}, dataset)
  return ''


def _quiet(function: Callable[..., Any], *args, **options) -> Callable[[], str]:
  """A reader that says nothing but by its errors."""

  def read() -> str:
    function(*args, **options)
    return ''

  return read


def _files(folder: Path) -> list[Path]:
  return sorted(path for path in folder.rglob('*') if path.is_file())


def _results(folder: Path) -> list[Path]:
  """Files of results, of a stage or of several."""
  found = [path for path in _files(folder) if path.suffix in ('.jsonl', '.npz')]
  return [*found, *folder.rglob(RESULT)]


def _latency() -> dict[str, Any]:
  """Times as `python -m jdyn.evaluate --time` writes them."""
  batch = {'size': 1, 'policy': 'switch', 'dense': 0.8, 'gated': 0.35}
  batch |= {'gated_macs': 9.0, 'realised': 1.2, 'paths': {'text': 0.1, 'image': 0.6}}
  return {'device': 'cpu', 'versions': {}, 'seed': 0, 'batches': [batch]}
