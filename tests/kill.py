"""Kills training at random moments, resumes it, and compares the bits.

    python -m tests.kill --kills 20

prints one row per kill: the moment, the step at which training went on, and
whether everything that the run left is equal to what an undisturbed run left.
"""

import argparse
import atexit
import dataclasses
import functools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
CONFIG = 'configs/digits_dyn.py'
STAGES = ('both', 'coarse', 'main')
_DEADLINE = 300.0


@dataclasses.dataclass
class Runner:
  """Starts runs of one config.

  Attributes:
    cache: folder of compiled programs that all runs share.
    epochs: of each stage.
    config: the file, relative to the repository.
  """

  cache: Path
  epochs: int = 3
  config: str = CONFIG

  def start(self, workdir: Path) -> subprocess.Popen:
    """Starts or continues a run; it checkpoints after every compiled call."""
    stages = ['config', *(f'config.experts.{name}' for name in STAGES[:2])]
    command = [
      *(sys.executable, '-m', 'jdyn.train'),
      *('--config', self.config, '--workdir', str(workdir)),
      *('--compilation_cache', str(self.cache)),
      '--config.parallel=jit',
      '--config.steps_per_call=9',
      '--config.checkpoint_seconds=0',
      '--config.loss.rank=0.1',  # Its history of losses must survive too.
      *(f'--{stage}.epochs={self.epochs}' for stage in stages),
    ]
    # One device, as anybody has; the tests themselves ask for four.
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''}
    return subprocess.Popen(
      command,
      cwd=ROOT,
      env=environment,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
    )

  def finish(self, workdir: Path) -> str:
    """Runs to the end; what was written to stderr."""
    process = self.start(workdir)
    _, log = process.communicate(timeout=_DEADLINE)
    assert process.returncode == 0, log
    return log

  def disturb(self, workdir: Path, lines: int, delay: float, number: int):
    """Sends a signal once there are so many lines of metrics, and after a delay.

    Returns:
      The exit status and what was written to stderr.
    """
    process = self.start(workdir)
    deadline = time.monotonic() + _DEADLINE
    while process.poll() is None and count_lines(workdir) < lines:
      assert time.monotonic() < deadline, f'no {lines} lines in {workdir}'
      time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(number)
    _, log = process.communicate(timeout=_DEADLINE)
    return process.returncode, log


@functools.cache
def undisturbed() -> tuple[Runner, Path]:
  """One finished run and its runner, which all tests of a process share."""
  folder = Path(tempfile.mkdtemp(prefix='jdyn-'))
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  cache = os.environ.get('JAX_COMPILATION_CACHE_DIR') or folder / 'cache'
  runner = Runner(Path(cache))
  runner.finish(folder / 'undisturbed')
  return runner, folder / 'undisturbed'


def count_lines(workdir: Path) -> int:
  """How many lines of metrics a run has written so far."""
  logs = workdir.glob('stages/*/metrics.jsonl')
  return sum(path.read_bytes().count(b'\n') for path in logs)


def resumed_at(log: str) -> str:
  """Where a run went on, in its own words."""
  found = re.search(r'Stage (\S+) goes on from step (\d+)', log)
  return f'{found[1]} step {found[2]}' if found else 'start of a stage'


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
      one, two = (_arrays(folder / kind) for folder in folders)
      found += [
        f'{stage}/{kind}/{name}'
        for name in sorted(one.keys() | two.keys())
        if name not in one or name not in two or one[name] != two[name]
      ]
  return found


def _arrays(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
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
  return arrays


def main(arguments: Sequence[str] | None = None) -> int:
  """Prints the table; the number of runs that came out different."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--kills', type=int, default=20)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--epochs', type=int, default=Runner.epochs, help='of each stage')
  options = parser.parse_args(arguments)
  random_ = random.Random(options.seed)
  wrong = 0
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    runner = Runner(folder / 'cache', options.epochs)
    runner.finish(folder / 'undisturbed')
    total = count_lines(folder / 'undisturbed')
    print(f'{"killed":>24}  {"went on at":<18}  equal', flush=True)
    for kill in range(options.kills):
      workdir = folder / f'kill_{kill}'
      lines, delay = random_.randrange(total), random_.uniform(0, 0.3)
      runner.disturb(workdir, lines, delay, signal.SIGKILL)
      log = runner.finish(workdir)
      found = differences(workdir, folder / 'undisturbed')
      wrong += bool(found)
      moment = f'line {lines:3} of {total} + {delay:.2f} s'
      equal = 'no: ' + ', '.join(found) if found else 'yes'
      print(f'{moment:>24}  {resumed_at(log):<18}  {equal}', flush=True)
  print(f'{options.kills - wrong} of {options.kills} are equal.')
  return wrong


if __name__ == '__main__':
  sys.exit(bool(main()))
