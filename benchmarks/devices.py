"""Bytes and steps per second of data-parallel training, and where it stops scaling.

  python -m benchmarks.devices [--devices 1,2,4] [--processes 1,2,4] [--json FILE]

Measured: one training step on virtual devices of this machine's CPU, all within one
process or one in each of several. They share the same cores, so the steps per second
show what dividing a batch costs, and no speed-up. The bytes are read from the compiled
program: those of all `all-reduce` operations of a step, which is what every device puts
in and gets back.

On paper: what these bytes come to on slices whose makers publish the figures below. Of
a step each device computes its share of the batch, reads and writes parameters and
optimiser state once, and takes part in one ring all-reduce of the gradients. A step is
the sum of the three, since nothing here overlaps them. Peak rates are never reached, so
these times are lower bounds, and the number of devices at which communication takes
half of the step is the point: beyond it more devices hardly help.
"""

import argparse
import dataclasses
import importlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.rows import row, write_rows

NETWORKS = {
  'mmimdb_dyn': dict(freeze='none', batch_size=128),
  'avmnist_concat': dict(batch_size=40),
}
"""Configs, trained whole, and what is set in them."""

STEPS = 20
SEED = 0
_BYTES = {'f32': 4, 's32': 4, 'u32': 4, 'bf16': 2, 'pred': 1}


@dataclasses.dataclass(frozen=True)
class Chip:
  """What its maker says of an accelerator.

  Attributes:
    name: of the slice.
    count: of devices in it.
    macs: multiply-accumulates per second in bfloat16, half of the FLOPs.
    memory: bytes per second.
    network: bytes per second that a device sends while it receives as many.
    latency: seconds that each of the `2 (n - 1)` parts of a ring takes at least; not
      published, a round number.
  """

  name: str
  count: int
  macs: float
  memory: float
  network: float
  latency: float


CHIPS = (
  # https://cloud.google.com/tpu/docs/v5e: 197 TFLOPs, 819 GB/s, 400 GB/s both ways.
  Chip('v5e-256', 256, 98.5e12, 819e9, 200e9, 1e-6),
  # https://www.nvidia.com/en-us/data-center/h100/ (SXM): 989 TFLOPs without sparsity,
  # 3.35 TB/s; between machines of eight, 400 Gb/s a card (DGX H100's user guide).
  Chip('64 H100', 64, 494.5e12, 3.35e12, 50e9, 5e-6),
)


def step_seconds(
  chip: Chip, devices: int, batch: int, macs: float, moved: float, parameters: int
) -> dict[str, float]:
  """Lower bounds for the parts of one step, in seconds.

  Args:
    chip: its rates.
    devices: among which the batch is divided.
    batch: examples of a step, over all devices.
    macs: of one example's forward pass; the backward pass takes twice as many.
    moved: bytes of the gradients.
    parameters: each is read with its gradient and two moments of Adam, and three of
      these are written.
  """
  parts = 2 * (devices - 1)
  return {
    'compute': 3 * macs * batch / devices / chip.macs,
    'memory': 7 * 4 * parameters / chip.memory,
    'network': parts * (moved / devices / chip.network + chip.latency),
  }


def half_point(chip: Chip, **step) -> int:
  """The first power of two of devices at which the network takes half of a step."""
  devices = 1
  while devices < 2**20:
    found = step_seconds(chip, devices, **step)
    if found['network'] >= found['compute'] + found['memory']:
      return devices
    devices *= 2
  return devices


def reduced_bytes(text: str) -> int:
  """Bytes of the results of all `all-reduce` operations of a compiled program."""
  total = 0
  for line in text.splitlines():
    if found := re.search(r'= (.*?) all-reduce(-start)?\(', line):
      for kind, shape in re.findall(r'(\w+)\[([\d,]*)\]', found[1]):
        sizes = [int(size) for size in shape.split(',') if size]
        total += _BYTES[kind] * int(np.prod(sizes))
  return total


def measure(network: str, calls: int) -> dict:
  """Steps per second and bytes per step on all devices that this process sees."""
  import jax

  from jdyn import build
  from jdyn.data.load import load
  from jdyn.training.feed import DeviceFeed
  from jdyn.training.parallel import Parallel
  from jdyn.training.programs import TrainPrograms

  config = importlib.import_module(f'configs.{network}').get_config()
  config.update(NETWORKS[network])
  with tempfile.TemporaryDirectory() as folder:
    dataset = load(build.source(config), '', Path(folder))
    parallel = Parallel('auto')
    stage = build.stage(config, dataset.spec, parallel.axis_name)
    train = dataset.splits['train'].only(stage.inputs)
    own = parallel.own_rows(stage.batch_size)
    feed = DeviceFeed(train, [SEED], stage.batch_size, own)
    programs = TrainPrograms(stage, train, feed, parallel, 1, STEPS, unroll=1)
    state = parallel.put(programs.start(np.array([SEED], np.uint32)))
    data = parallel.put(feed.data)
    rates, moved = [], None
    (xs,) = feed.calls([(0, STEPS)])
    if jax.process_count() == 1:
      lowered = programs.call.lower(state, data, np.int32(0), xs)
      moved = reduced_bytes(lowered.compile().as_text())
    for number in range(1 + calls):  # The first compiles.
      start = np.int32(number * STEPS)
      began = time.perf_counter()
      state, metrics = programs.call(state, data, start, xs)
      jax.block_until_ready(metrics)
      rates.append(STEPS / (time.perf_counter() - began))
  return {
    'rate': statistics.median(rates[1:]),
    'moved': moved,
    'parameters': stage.costs.parameters,
    'macs': stage.costs.total,
    'batch': stage.batch_size,
  }


def _children(network: str, processes: int, devices: int, calls: int) -> dict:
  """What `measure` finds in so many processes with so many devices each."""
  with socket.socket() as probe:
    probe.bind(('', 0))
    address = f'127.0.0.1:{probe.getsockname()[1]}'
  flags = f'--xla_force_host_platform_device_count={devices}'
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags}
  command = [sys.executable, '-m', 'benchmarks.devices', '--child', network]
  command += ['--calls', str(calls)]
  if processes > 1:
    command += ['--address', address, '--count', str(processes)]
  started = [
    subprocess.Popen(
      [*command, '--index', str(index)],
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )
    for index in range(processes)
  ]
  outputs = [process.communicate()[0] for process in started]
  if any(process.returncode for process in started):
    raise SystemExit(f'{network} failed on {processes} x {devices}: {command}')
  return json.loads(outputs[0].splitlines()[-1])


def _numbers(text: str) -> list[int]:
  return [int(number) for number in text.split(',') if number]


def main(arguments: Sequence[str] | None = None) -> None:
  """Prints both tables."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--devices', type=_numbers, default=[1, 2, 4])
  parser.add_argument('--processes', type=_numbers, default=[2, 4])
  parser.add_argument(
    '--calls', type=int, default=15, help='that are timed, of 20 steps'
  )
  parser.add_argument('--json', type=Path, help='one object per row')
  for name in ('--child', '--address'):
    parser.add_argument(name, help=argparse.SUPPRESS)
  for name in ('--count', '--index'):
    parser.add_argument(name, type=int, default=0, help=argparse.SUPPRESS)
  options = parser.parse_args(arguments)
  if options.child:
    if options.count:
      from jdyn.training import hosts

      hosts.start(options.address, options.count, options.index)
    print(json.dumps(measure(options.child, options.calls)))
    return

  rows = []
  for network in NETWORKS:
    print(f'\n{network}: processes x devices, steps/s, ratio, bytes moved')
    layouts = [(1, n) for n in options.devices] + [(n, 1) for n in options.processes]
    base = None
    for processes, devices in layouts:
      found = _children(network, processes, devices, options.calls)
      base = base or found['rate']
      ratio, moved = found['rate'] / base, found['moved']
      line = f'  {processes} x {devices}  {found["rate"]:8.1f}  {ratio:5.2f}'
      print(line + ('' if moved is None else f'  {moved:>12,}'), flush=True)
      name = f'{network}/{processes}x{devices}'
      rows.append(
        row(f'{name}/rate', found['rate'], 'steps/s', baseline=base, ratio=ratio)
      )
      if moved is not None:
        rows.append(row(f'{name}/moved', moved, 'bytes'))
    print('  on paper: slice, step in us (compute + memory + network), half point')
    step = {
      'macs': found['macs'],
      'moved': 4.0 * found['parameters'],
      'parameters': found['parameters'],
    }
    for chip in CHIPS:
      for batch in (found['batch'], 128 * found['batch']):
        parts = step_seconds(chip, chip.count, batch, **step)
        micros = ' + '.join(f'{1e6 * part:.1f}' for part in parts.values())
        point = half_point(chip, batch=batch, **step)
        print(f'  {chip.name}, batch {batch}: {micros}; {point} devices')
        name = f'{network}/{chip.name}/batch {batch}'
        rows.append(row(f'{name}/step', 1e6 * sum(parts.values()), 'us, on paper'))
        rows.append(row(f'{name}/half', point, 'devices, on paper'))
  if options.json:
    write_rows(options.json, rows)


if __name__ == '__main__':
  main()
