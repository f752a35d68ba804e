"""Kills runs in several processes, and goes on with another number of them.

Each run is started by `launch/local.sh`, one of its processes is killed at a random
moment, which ends all, and other processes in another number bring it to its end. It
must then have seen the same batches as one process that nothing befell, and come to the
same parameters, metrics and predictions up to rounding: sums over devices are taken in
another order.
"""

import argparse
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jdyn.evaluators.predictions import Predictions
from tests.faults import kills
from tests.faults.table import Row

TOLERANCE = 1e-4
_DEADLINE = 300.0


def start(workdir: Path, processes: int, cache: Path) -> subprocess.Popen:
  """Starts or continues a run in so many processes, with one device each."""
  command = [
    *('bash', str(kills.ROOT / 'launch' / 'local.sh'), str(processes)),
    *('--config', kills.CONFIG, '--workdir', str(workdir)),
    *('--compilation_cache', str(cache), '--config.parallel=auto'),
    # Fed by the host: each process reads its own rows of a batch alone.
    '--config.feed=host',
  ]
  environment = {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': '',
    'PYTHON': sys.executable,
    'RESTARTS': '0',
  }
  return subprocess.Popen(
    command, cwd=kills.ROOT, env=environment, stderr=subprocess.PIPE, text=True
  )


def kill_one(workdir: Path, processes: int, lines: int, cache: Path, which: int) -> str:
  """Kills a process once there are so many lines of metrics; what is wrong then."""
  run = start(workdir, processes, cache)
  deadline = time.monotonic() + _DEADLINE
  while run.poll() is None and kills.count_lines(workdir) < lines:
    assert time.monotonic() < deadline, f'nothing happens in {workdir}'
    time.sleep(0.01)
  children = _children(run.pid)
  if children:
    os.kill(children[which % len(children)], signal.SIGKILL)
  _, log = run.communicate(timeout=_DEADLINE)
  return '' if run.returncode > 128 else f'status {run.returncode}: {log[-300:]}'


def finish(workdir: Path, processes: int, cache: Path) -> str:
  """Brings a run to its end; what was said."""
  run = start(workdir, processes, cache)
  _, log = run.communicate(timeout=_DEADLINE)
  assert run.returncode == 0, log
  return log


def _children(pid: int) -> list[int]:
  """Processes of the system that a process has started, training ones alone."""
  found = subprocess.run(
    ['ps', '-o', 'pid=,args=', '--ppid', str(pid)], capture_output=True, text=True
  )
  return [int(n) for n in re.findall(r'^ *(\d+) .*jdyn\.train', found.stdout, re.M)]


def distances(workdir: Path, other: Path) -> dict[str, float]:
  """The greatest differences between two finished runs, by what differs.

  It is infinite where batches, steps or chosen epochs are not the same.
  """
  found = {}
  for stage in kills.STAGES:
    one, two = (folder / 'stages' / stage for folder in (workdir, other))
    found[f'{stage}/metrics'] = _of_logs(one, two)
    for split in ('valid', 'test'):
      first, second = (
        Predictions.load(folder / f'predictions_{split}.npz') for folder in (one, two)
      )
      found[f'{stage}/{split}'] = float(np.abs(first.logits - second.logits).max())
    arrays, others = (kills.arrays(folder / 'best') for folder in (one, two))
    found[f'{stage}/best'] = max(
      _distance(arrays.get(name), others.get(name)) for name in {*arrays, *others}
    )
  return found


def _of_logs(one: Path, two: Path) -> float:
  first, second = (
    [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    for folder in (one, two)
  )
  same = [
    [{key: record[key] for key in record if not isinstance(record[key], list)}]
    for record in (*first, *second)
  ]
  if same[: len(first)] != same[len(first) :]:
    return float('inf')  # Other steps or other batches.
  return max(
    float(np.abs(np.subtract(a[key], b[key])).max())
    for a, b in zip(first, second, strict=True)
    for key in a
    if isinstance(a[key], list)
  )


def _distance(one, two) -> float:
  """Of two arrays of `kills.arrays`."""
  if one is None or two is None or one[:2] != two[:2]:
    return float('inf')
  if not one[0]:
    return 0.0  # Of the checkpoint itself.
  values = [np.frombuffer(each[2], each[0]).astype(np.float64) for each in (one, two)]
  return float(np.abs(values[0] - values[1]).max(initial=0.0))


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """How much to try."""
  parser.add_argument('--counts', default='1,2,4', help='of processes, with commas')
  parser.add_argument('--rounds', type=int, default=2, help='of each pair of counts')


def run(options: argparse.Namespace) -> Iterator[Row]:
  """Tries each pair of counts: killed with the first, continued with the second."""
  chance = random.Random(options.seed)
  counts = [int(count) for count in options.counts.split(',')]
  with tempfile.TemporaryDirectory(prefix='jdyn-') as name:
    folder = Path(name)
    cache = Path(os.environ.get('JAX_COMPILATION_CACHE_DIR') or folder / 'cache')
    whole = folder / 'undisturbed'
    finish(whole, 1, cache)
    total = kills.count_lines(whole)
    for first, second in itertools.product(counts, counts):
      worst, wrong = 0.0, []
      for number in range(options.rounds):
        workdir = folder / f'{first}_{second}_{number}'
        lines = chance.randrange(total)
        text = kill_one(workdir, first, lines, cache, chance.randrange(first))
        finish(workdir, second, cache)
        worst = max(worst, *distances(workdir, whole).values())
        if text or worst > TOLERANCE:
          wrong.append(text)
      tried, note = options.rounds, f'greatest difference {worst:.1e} {" ".join(wrong)}'
      fault = f'one of {first} killed, went on with {second}'
      yield Row('hosts', fault, tried, tried - len(wrong), len(wrong), note.strip())
