"""Ends training at random moments, goes on, and compares the bits.

Every run is disturbed several times: killed, asked to end, or left without space on the
disk; at any moment, within a save, and before any single change of a file. It goes on
each time, with another number of reading threads, and at last to its end. What it
leaves then, and all that it said was saved before, must be that of a run that nothing
befell: parameters, the optimiser's state, histories of losses, metrics, predictions and
the chain of batch hashes, bit by bit.
"""

import argparse
import atexit
import collections
import contextlib
import dataclasses
import functools
import importlib
import itertools
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from tests.faults.table import Row

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIG = 'tests/faults/kills_config.py'
STAGES = ('both', 'coarse', 'main')
_DEADLINE = 300.0
_CHILD = 'tests.faults.kills_child'
_DISK = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class Setting:
  """How a run trains. Its numbers depend on all but `background`.

  Attributes:
    devices: virtual ones.
    parallel: how the batch lies on them.
    feed: where batches are put together.
    background: whether training goes on while a checkpoint is written.
  """

  devices: int = 1
  parallel: str = 'jit'
  feed: str = 'device'
  background: bool = True


SETTINGS = (
  Setting(),
  Setting(feed='host'),
  Setting(4, 'shard_map', 'host'),
  Setting(4, 'pmap'),
)


@dataclasses.dataclass(frozen=True)
class AtWrite:
  """What happens when a process changes its folder for the `number`-th time.

  Attributes:
    number: of the call that makes, opens for writing, renames or removes a file or a
      folder; 0 is the first.
    what: `kill`, just before it; or `full`: there is no space, for it or any later one.
  """

  number: int
  what: Literal['kill', 'full']


@dataclasses.dataclass
class Process:
  """One start of a run.

  Attributes:
    handle: of the operating system's process.
    workdir: of the run.
    log: file with what it says.
  """

  handle: multiprocessing.Process
  workdir: Path
  log: Path

  @property
  def alive(self) -> bool:
    """Whether it has not ended yet."""
    return self.handle.is_alive()

  def send(self, number: int) -> None:
    """Sends a signal, if it is still there."""
    if self.alive:
      os.kill(self.handle.pid, number)

  def wait_for(self, condition: Callable[[], bool]) -> None:
    """Returns once the condition holds, or the process has ended."""
    deadline = time.monotonic() + _DEADLINE
    while self.alive and not condition():
      assert time.monotonic() < deadline, f'nothing happens in {self.workdir}'
      time.sleep(0.001)

  def end(self) -> tuple[int, str]:
    """Exit status, negative for a signal, and what it said."""
    self.handle.join(_DEADLINE)
    if self.alive:
      self.handle.kill()
      self.handle.join()
      raise AssertionError(f'{self.workdir}: hangs. {self.log.read_text()}')
    return self.handle.exitcode, self.log.read_text()


@dataclasses.dataclass(frozen=True)
class Runner:
  """Starts runs.

  Attributes:
    folder: for compiled programs and logs.
  """

  folder: Path

  def start(
    self,
    workdir: Path,
    setting: Setting,
    *,
    threads: int = 2,
    at_write: AtWrite | None = None,
  ) -> Process:
    """Starts or continues a run.

    Args:
      workdir: of the run.
      setting: the same each time.
      threads: that read ahead; any number.
      at_write: what befalls it at a change of its folder.
    """
    config = importlib.import_module('tests.faults.kills_config').get_config()
    config.update(
      parallel=setting.parallel,
      feed=setting.feed,
      checkpoint_async=setting.background,
      host_threads=threads,
    )
    log = self.folder / f'{workdir.name}.log'
    child = _forkserver().Process(
      target=_train,
      args=(config.to_dict(), workdir, self.cache, setting.devices, log, at_write),
    )
    child.start()
    return Process(child, workdir, log)

  def finish(self, workdir: Path, setting: Setting, **options) -> str:
    """Runs to the end; what was said."""
    status, log = self.start(workdir, setting, **options).end()
    assert status == 0, log
    return log

  @property
  def cache(self) -> Path:
    """The folder of compiled programs."""
    return Path(os.environ.get('JAX_COMPILATION_CACHE_DIR') or self.folder / 'cache')


@functools.cache
def _forkserver():
  """Forks from a process that has imported everything, but not started JAX."""
  context = multiprocessing.get_context('forkserver')
  context.set_forkserver_preload([_CHILD])
  paths = os.environ.get('PYTHONPATH', '')
  os.environ['PYTHONPATH'] = f'{ROOT}{os.pathsep}{paths}'
  os.environ['JAX_PLATFORMS'] = 'cpu'
  return context


def _train(*arguments) -> None:
  """In the child, which alone has imported this module."""
  importlib.import_module(_CHILD).train(*arguments)


def flags(devices: int) -> str:
  """Of XLA: so many virtual devices, and the code generator that compiles fast."""
  count = f'--xla_force_host_platform_device_count={devices}'
  return f'{count} --xla_cpu_use_fusion_emitters=false'


def count_lines(workdir: Path) -> int:
  """How many lines of metrics a run has written so far."""
  logs = workdir.glob('stages/*/metrics.jsonl')
  return sum(path.read_bytes().count(b'\n') for path in logs)


def is_finished(workdir: Path, stage: str = STAGES[-1]) -> bool:
  """Whether a stage has left its result."""
  return (workdir / 'stages' / stage / 'result.json').is_file()


def saved_steps(workdir: Path) -> dict[str, int]:
  """The newest checkpoint that is called saved, of each stage that is not finished."""
  found = {}
  for stage in STAGES:
    folder = workdir / 'stages' / stage / 'checkpoints' / 'manifests'
    steps = [int(path.stem) for path in folder.glob('*.json')]
    if steps and not is_finished(workdir, stage):
      found[stage] = max(steps)
  return found


def forgotten(saved: dict[str, int], log: str) -> str:
  """What was saved before a start, and not gone on with; empty if nothing."""
  resumed = {
    stage: int(step)
    for stage, step in re.findall(r'Stage (\S+) goes on from step (\d+)', log)
  }
  if 'is damaged' in log:
    return 'a checkpoint is damaged'
  trained = 'First training step' in log  # Those that ended before say nothing.
  for stage, step in saved.items():
    if resumed.get(stage, None if trained else step) != step:
      return f'{stage} was saved at step {step}, and goes on from {resumed.get(stage)}'
  return ''


def differences(workdir: Path, other: Path) -> list[str]:
  """What is not bit by bit the same in two finished runs."""
  found = []
  for stage in STAGES:
    folders = [folder / 'stages' / stage for folder in (workdir, other)]
    names = ['metrics.jsonl', 'result.json']
    names += [f'predictions_{split}.npz' for split in ('valid', 'test')]
    for name in names:
      one, two = ((folder / name).read_bytes() for folder in folders)
      if one != two:
        found.append(f'{stage}/{name}')
    # The last checkpoint holds the optimiser's state.
    for kind in ('best', 'checkpoints'):
      one, two = (arrays(folder / kind) for folder in folders)
      found += [
        f'{stage}/{kind}/{name}'
        for name in sorted(one.keys() | two.keys())
        if name not in one or name not in two or one[name] != two[name]
      ]
      found += [f'{stage}/{kind}: {name}' for name in _debris(folders[0] / kind)]
  return found


def arrays(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
  """Type, shape and bytes of every array of the newest saved step, by name."""
  import jax
  import orbax.checkpoint as ocp

  step = max(int(path.stem) for path in (folder / 'manifests').glob('*.json'))
  arrays = {'step': ('', (step,), b'')}
  with ocp.StandardCheckpointer() as checkpointer:
    for item in sorted((folder / 'steps' / str(step)).iterdir()):
      if item.is_dir() and item.name != 'meta':
        tree = checkpointer.restore(item)
        for path, leaf in jax.tree.leaves_with_path(tree):
          array = np.asarray(leaf)
          name = f'{item.name}{jax.tree_util.keystr(path)}'
          arrays[name] = (array.dtype.name, array.shape, array.tobytes())
  meta = folder / 'steps' / str(step) / 'meta' / 'metadata'
  arrays['meta'] = ('', (), meta.read_bytes())
  return arrays


def _debris(folder: Path) -> list[str]:
  """What dead saves left in a folder of checkpoints."""
  saved = {path.stem for path in (folder / 'manifests').glob('*.json')}
  left = {path.name for path in (folder / 'steps').iterdir()} - saved
  return sorted(left | {path.name for path in folder.glob('manifests/*.partial')})


@dataclasses.dataclass
class Strike:
  """One start of a run, and what is to befall it.

  Attributes:
    start: starts it.
    workdir: of the run.
    lines: of metrics after which it is to happen.
    chance: draws the moment.
    disk: a small disk of its own on which the run lies, if it does.
  """

  start: Callable[..., Process]
  workdir: Path
  lines: int
  chance: random.Random
  disk: Path | None

  def moment(self) -> Process:
    """A process that has come to its moment."""
    process = self.start()
    process.wait_for(lambda: count_lines(self.workdir) >= self.lines)
    process.wait_for(_after(self.chance.uniform(0, 0.3)))
    return process


def kill(strike: Strike) -> tuple[int, str]:
  """`kill -9` at any moment."""
  process = strike.moment()
  process.send(signal.SIGKILL)
  return process.end()


def kill_in_a_save(strike: Strike) -> tuple[int, str]:
  """`kill -9` while Orbax writes."""
  process = strike.moment()
  drafts = functools.partial(_drafts, strike.workdir)
  process.wait_for(lambda: any(drafts()))
  process.wait_for(_after(strike.chance.uniform(0, 0.05)))
  process.send(signal.SIGKILL)
  return process.end()


def kill_at_a_write(strike: Strike) -> tuple[int, str]:
  """`kill -9` before one change of a file."""
  at_write = AtWrite(strike.chance.randrange(400), 'kill')
  return strike.start(at_write=at_write).end()


def ask(strike: Strike) -> tuple[int, str]:
  """SIGTERM."""
  process = strike.moment()
  process.send(signal.SIGTERM)
  return process.end()


def ask_and_kill(strike: Strike) -> tuple[int, str]:
  """SIGTERM, and `kill -9` before it has ended."""
  process = strike.moment()
  process.send(signal.SIGTERM)
  process.wait_for(_after(strike.chance.uniform(0, 0.3)))
  process.send(signal.SIGKILL)
  return process.end()


def no_space_at_a_write(strike: Strike) -> tuple[int, str]:
  """No space from one change of a file on."""
  at_write = AtWrite(strike.chance.randrange(400), 'full')
  return strike.start(at_write=at_write).end()


def files_too_large(strike: Strike) -> tuple[int, str]:
  """No file may grow beyond some size any more (RLIMIT_FSIZE)."""
  process = strike.moment()
  size = strike.chance.randrange(2**13, 2**16)
  if process.alive:
    with contextlib.suppress(ProcessLookupError):
      limits = size, resource.RLIM_INFINITY
      resource.prlimit(process.handle.pid, resource.RLIMIT_FSIZE, limits)
  return process.end()


def full_disk(strike: Strike) -> tuple[int, str]:
  """The disk is full but for some pages, and sometimes still at the next start."""
  process = strike.moment()
  ballast = strike.disk / 'ballast'
  left = strike.chance.choice((0, strike.chance.randrange(2**18)))
  with open(ballast, 'wb') as file:
    while (size := shutil.disk_usage(strike.disk).free - left) > 0:
      with contextlib.suppress(OSError):  # The run was faster.
        os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, size)
  status, log = process.end()
  if status == 1 and not left:
    status, log = strike.start().end()
  ballast.unlink()
  return status, log


_KILLED, _DEAD = -signal.SIGKILL, (-signal.SIGTERM, -signal.SIGKILL)

FAULTS = {
  kill: (_KILLED,),
  kill_in_a_save: (_KILLED,),
  kill_at_a_write: (_KILLED,),
  ask: (0, -signal.SIGTERM),  # The latter before there is anything to save.
  ask_and_kill: (0, *_DEAD),
  no_space_at_a_write: (1,),
  files_too_large: (1,),
  full_disk: (1,),
}
"""What may befall a run, and the exit status that is due."""


def problem(fault: Callable, workdir: Path, status: int, log: str) -> str:
  """What is wrong with how a process ended that something befell; empty if nothing."""
  if status not in FAULTS[fault]:
    return f'status {status}: {log[-500:]}'
  if 'Traceback' in log:
    return log[-500:]
  if announced := re.search(r'stage (\S+) is saved at step (\d+)', log):
    stage, step = announced[1], int(announced[2])
    if saved_steps(workdir).get(stage) != step:
      return f'{stage} is not saved at step {step}'
  if status == 1:
    errors = re.findall('^error: .*$', log, re.MULTILINE)
    why = 'File too large' if fault is files_too_large else 'disk is full'
    if len(errors) != 1 or why not in errors[0] or str(workdir) not in errors[0]:
      return f'{len(errors)} errors: {log[-500:]}'
  return ''


def _after(seconds: float) -> Callable[[], bool]:
  end = time.monotonic() + seconds
  return lambda: time.monotonic() >= end


def _drafts(workdir: Path) -> Iterator[Path]:
  """Folders of steps that Orbax has not committed yet."""
  return workdir.glob('stages/*/*/steps/*tmp*')


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
  """A disk of a few megabytes in memory; None without the right to mount one."""
  folder.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', f'size={_DISK}', 'jdyn', str(folder)]
  if subprocess.run(mount, capture_output=True, check=False).returncode:
    yield None
    return
  try:
    yield folder
  finally:
    subprocess.run(['umount', '--lazy', str(folder)], check=True)


@functools.cache
def undisturbed() -> tuple[Runner, Path]:
  """A finished run of the first setting, and its runner, which all tests share.

  It is `python -m jdyn.train` itself, report and all.
  """
  folder = Path(tempfile.mkdtemp(prefix='jdyn-'))
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  runner, workdir, setting = Runner(folder), folder / 'undisturbed', SETTINGS[0]
  command = [
    *(sys.executable, '-m', 'jdyn.train', '--config', CONFIG),
    *('--workdir', str(workdir), '--compilation_cache', str(runner.cache)),
    *(f'--config.parallel={setting.parallel}', f'--config.feed={setting.feed}'),
  ]
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags(1)}
  subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=_DEADLINE)
  return runner, workdir


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """How much to try."""
  parser.add_argument('--kills', type=int, default=200, help='faults in all')
  parser.add_argument('--per_run', type=int, default=7, help='faults of one run')


def run(options: argparse.Namespace) -> Iterator[Row]:
  """Disturbs runs, and compares them at their ends."""
  chance = random.Random(options.seed)
  tally = _Tally()
  with contextlib.ExitStack() as stack:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix='jdyn-')))
    runner = Runner(folder)
    disk = stack.enter_context(small_disk(folder / 'disk'))
    ways = itertools.cycle(itertools.product((True, False), SETTINGS))
    for number, (background, setting) in enumerate(ways):
      if tally.tried >= options.kills:
        break
      whole = folder / f'undisturbed_{SETTINGS.index(setting)}'
      if not is_finished(whole):
        runner.finish(whole, setting)
      setting = dataclasses.replace(setting, background=background)
      # A disk in memory keeps all that was written, a real one what was asked for.
      small = disk if number % 3 else None
      workdir = (small or folder) / f'run_{number}'
      known = [fault for fault in FAULTS if small or fault is not full_disk]
      faults = [chance.choice(known) for _ in range(options.per_run)]
      found = disturb(runner, workdir, setting, whole, chance, small, faults)
      tally.add(number, setting, found)
      shutil.rmtree(workdir)
    yield from tally.rows()
    if disk is None:
      note = 'not tried: no right to mount a small disk here'
      yield Row('kills', _title(full_disk), 0, 0, 0, note)
    yield _other_devices(runner, folder / 'devices', chance)


def disturb(
  runner: Runner,
  workdir: Path,
  setting: Setting,
  whole: Path,
  chance: random.Random,
  disk: Path | None,
  faults: Sequence[Callable],
) -> list[tuple[Callable, str]]:
  """Disturbs one run some times, lets it end, and compares it.

  Args:
    runner: starts it.
    workdir: of the run.
    setting: of the run.
    whole: folder of one that nothing befell.
    chance: draws what happens, and when.
    disk: on which the folder lies, if it is one of its own.
    faults: in this order, as far as the run lasts.

  Returns:
    Each fault, and what was lost by it, which is empty if nothing was.
  """
  total = count_lines(whole)
  found = []
  for place, fault in enumerate(faults):
    saved, results = saved_steps(workdir), _results(workdir)
    threads = chance.choice((1, 2, 4))
    start = functools.partial(runner.start, workdir, setting, threads=threads)
    first, last = (each * total // len(faults) for each in (place, place + 1))
    lines = chance.randint(first, last)
    status, log = fault(Strike(start, workdir, lines, chance, disk))
    if status == 0 and is_finished(workdir):
      break  # It was over before.
    wrong = problem(fault, workdir, status, log) or forgotten(saved, log)
    if any(_results(workdir).get(name) != text for name, text in results.items()):
      wrong = wrong or 'a finished stage was trained again'
    if any(saved_steps(workdir).get(name, step) < step for name, step in saved.items()):
      wrong = wrong or 'a saved checkpoint is gone'
    found.append((fault, wrong))
  saved = saved_steps(workdir)
  status, log = runner.start(workdir, setting, threads=chance.choice((1, 2, 4))).end()
  if status:
    wrong = f'cannot be gone on with: {log[-500:]}'
  else:
    unequal = differences(workdir, whole)
    wrong = forgotten(saved, log) or ', '.join(unequal[:4])
    wrong += f' and {len(unequal) - 4} more' if unequal[4:] else ''
  return [(fault, before or wrong) for fault, before in found]


def _results(workdir: Path) -> dict[str, bytes]:
  """The results of the stages that are finished."""
  paths = workdir.glob('stages/*/result.json')
  return {path.parent.name: path.read_bytes() for path in paths}


def _other_devices(runner: Runner, workdir: Path, chance: random.Random) -> Row:
  """Goes on with half of the devices: the same but for rounding."""
  setting = next(each for each in SETTINGS if each.parallel == 'shard_map')
  start = functools.partial(runner.start, workdir, setting)
  whole = runner.folder / f'undisturbed_{SETTINGS.index(setting)}'
  if not is_finished(whole):
    runner.finish(whole, setting)
  total = count_lines(whole)
  kill(Strike(start, workdir, total // 2, chance, None))
  runner.finish(workdir, dataclasses.replace(setting, devices=setting.devices // 2))
  worst = max(
    abs(one - two) / (1 + abs(two))
    for one, two in zip(_losses(workdir), _losses(whole), strict=True)
  )
  note = f'training losses differ by {worst:.1g}, which is not promised to be 0'
  lost = int(worst > 1e-3)
  return Row('kills', 'another number of devices', 1, 1 - lost, lost, note)


def _losses(workdir: Path) -> list[float]:
  paths = [workdir / 'stages' / stage / 'metrics.jsonl' for stage in STAGES]
  records = [json.loads(line) for path in paths for line in path.open()]
  return [loss for record in records for loss in record['loss']]


class _Tally:
  """What became of each kind of fault, with either way of saving."""

  def __init__(self):
    self.tried = 0
    self._found: dict[tuple[Callable, bool], list[tuple[Setting, str]]] = {}

  def add(self, number: int, setting: Setting, faults) -> None:
    """Counts the faults of one run, and says how it went."""
    for fault, wrong in faults:
      key = fault, setting.background
      self._found.setdefault(key, []).append((setting, wrong))
    self.tried += len(faults)
    names = ', '.join(fault.__name__ for fault, _ in faults)
    wrongs = sorted({wrong for _, wrong in faults} - {''})
    state = f'LOST: {wrongs}' if wrongs else 'equal'
    print(
      f'{time.strftime("%H:%M:%S")} {self.tried:4} run {number}, '
      f'{_way(setting.background)}, {setting.parallel} on {setting.devices}, '
      f'feed {setting.feed}: {names}: {state}',
      file=sys.stderr,
      flush=True,
    )

  def rows(self) -> Iterator[Row]:
    """A row per fault and way of saving."""
    for fault, background in itertools.product(FAULTS, (True, False)):
      if found := self._found.get((fault, background)):
        lost = [wrong for _, wrong in found if wrong]
        counts = collections.Counter(setting.devices for setting, _ in found)
        devices = ', '.join(f'{counts[n]} on {n}' for n in sorted(counts))
        note = ' '.join(lost[0].split()) if lost else f'devices: {devices}'
        name = f'{_title(fault)}; {_way(background)}'
        tried = len(found)
        yield Row('kills', name, tried, tried - len(lost), len(lost), note)


def _title(fault: Callable) -> str:
  return fault.__doc__.splitlines()[0].rstrip('.')


def _way(background: bool) -> str:
  return 'asynchronous' if background else 'synchronous'
