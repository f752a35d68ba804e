"""Training and prediction of three gated models on a GPU, beside PyTorch.

  python -m benchmarks.gpu --torch-python PYTHON [--json FILE]
    [--compile MODE] [--peak-tflops FLOAT32 BFLOAT16 --peak-gbps GBPS] [--profile DIR]

PYTHON is an interpreter with PyTorch and NumPy; without it this library is measured
alone. Both sides take turns on the same card, or on the CPU where neither finds one.
JAX is given 40 % of the card's memory, so that PyTorch has the rest. The data are
stand-ins of the real shapes, the weights random and the same on both sides; that these
have as many parameters, and gate and experts the same logits, is checked first.

All is in examples per second, those of all seeds together:

- `train`: gate and all experts together (`--config.freeze=none`), in calls of many
  steps that find the data on the device. PyTorch's batches lie there ready to use; it
  has the same loss and clipping, and fused AdamW.
- `dense`: prediction; the gate and every expert.
- `ladder`, `auto`: prediction; half of the examples are told to take the cheapest path
  and half the dearest. The gate runs all the same. `auto` is the policy that is found
  fastest. PyTorch picks the rows of each path, and runs its expert on them.

With ten seeds, training and `dense` are one program over all (`vmap`). A choice that
differs by seed cannot be: `ladder` is one program that takes the seeds in turn. PyTorch
takes them one after another, at the rate of one.

Products of float32 are TF32 on both sides; with `--matmul float32` on neither. With
bfloat16 the weights of training stay float32, those of prediction are cast once;
PyTorch does both by autocast. `--compile` adds PyTorch under `torch.compile`, where
that can take all of it: `train` and `dense`. Compiling is not counted on either side.

A time is that of many steps or batches, of which nothing is read in between: where JAX
would copy to the host, it fails (`jax.transfer_guard`), but for an `auto` that takes
`buckets`. A rate is the median of the rounds, a ratio the median of the ratios within a
round.

Given the card's peaks (an H100 SXM: `--peak-tflops 495 989 --peak-gbps 3350`, and 67
with `--matmul float32`), each row says what bounds it, with the share that it reaches
of the peak of arithmetic (two operations for each multiply-accumulate of its program)
and of memory (what must be moved if nothing stays in a cache: weights, inputs, and the
results of matrix products and convolutions). Where it reaches 40 % of neither, the time
goes into starting kernels, small shapes, or all that is between the products:
`overhead`. `--profile` writes a trace of a turn of each row, for Perfetto or xprof.
"""

import argparse
import dataclasses
import functools
import importlib
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.other import Other
from benchmarks.rows import row, write_rows
from jdyn import build
from jdyn.cost import count_macs
from jdyn.data import pipeline
from jdyn.data.load import load
from jdyn.data.order import train_rows
from jdyn.evaluators.conditional import conditional, path_costs
from jdyn.evaluators.latency import device_name
from jdyn.training.feed import DeviceFeed
from jdyn.training.parallel import Parallel
from jdyn.training.programs import TrainPrograms
from jdyn.training.step import cast

NETWORKS = ('mmimdb', 'mosei', 'avmnist')
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
PRECISIONS = {'tf32': 'tensorfloat32', 'float32': 'float32'}
"""JAX's name of how float32 is multiplied."""

HPARAMS = {'gate_temperature': 1.0, 'gate_hard': True}
CHEAP = 0.5
"""Share of the examples that are told to take the cheapest path."""

BATCHES = 4
"""Batches on the device, which are predicted, or PyTorch trains on, in turn."""

BOUND = 0.4
"""Share of a peak from which on it counts as the bound."""

FORMAT = '{:32}{:>12}{:>12}{:>8}{:>12}{:>8}  {}'


class Sizes(NamedTuple):
  """How much is timed in a turn; the same on both sides.

  Attributes:
    batch: examples, 0 for the config's.
    steps: of training, per compiled call.
    calls: of training, per turn.
    batches: of prediction, per turn.
    rounds: turns that count.
  """

  batch: int
  steps: int
  calls: int
  batches: int
  rounds: int


SMOKE = Sizes(batch=4, steps=2, calls=1, batches=2, rounds=1)


class Work(NamedTuple):
  """What a step or a batch takes at least.

  Attributes:
    macs: multiply-accumulates.
    moved: bytes to and from the memory.
  """

  macs: float
  moved: float


class Network:
  """A gated model of a config, and batches for it."""

  def __init__(self, name: str, folder: Path, batch_size: int):
    config = importlib.import_module(f'configs.{name}_dyn').get_config()
    config.freeze = 'none'
    config.batch_size = batch_size or config.batch_size
    dataset = load(build.source(config), '', cache=folder)
    self.name, self.config = name, config
    self.stage = build.stage(config, dataset.spec)
    self.task = dataset.spec.task
    self.train = dataset.splits['train'].only(self.stage.inputs)
    rows = train_rows(0, len(self.train), config.batch_size, 0, BATCHES)
    self.batches = [pipeline.assemble(self.train, batch) for batch in rows]
    self.costs = path_costs(self.stage.model, self.stage.costs.paths)
    self.forced = forced_paths(self.costs, config.batch_size)

  @property
  def example(self) -> Any:
    """A batch of one."""
    return jax.tree.map(lambda x: x[:1], self.batches[0]['inputs'])

  def init(self, key: jax.Array) -> Any:
    """Variables."""
    return self.stage.model.init(key, self.example, train=False, hparams=HPARAMS)

  def prices(self) -> list[float]:
    """What the loss charges by path, weight included, in the order of the gate."""
    return (self.config.loss.budget * self.costs / self.costs.max()).tolist()

  def results(self, path: str | None = None) -> int:
    """Values that the matrix products and convolutions give for an example.

    Args:
      path: of the gate and this path; None for all of the model.
    """
    first = () if path is None else (path,)

    def run(variables, inputs):
      _, found = self.stage.model.apply(
        variables,
        *first,
        inputs,
        train=False,
        hparams=HPARAMS,
        method='follow' if first else '__call__',
        capture_intermediates=_is_product,
        mutable=['intermediates'],
      )
      return found

    variables = jax.eval_shape(self.init, jax.random.key(0))
    return _size(jax.eval_shape(run, variables, self.example))


def _is_product(module: nn.Module, method: str) -> bool:
  return method == '__call__' and isinstance(module, nn.Dense | nn.Conv)


def _size(tree: Any) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def forced_paths(costs: np.ndarray, size: int) -> np.ndarray:
  """Paths `i32[size]`, the cheapest for a share `CHEAP`, else the dearest, mixed."""
  chosen = np.full(size, np.argmax(costs), np.int32)
  chosen[: round(CHEAP * size)] = np.argmin(costs)
  return np.random.default_rng(0).permutation(chosen)


class Shape(NamedTuple):
  """Of a step or a batch.

  Attributes:
    parameters: of the model.
    inputs: values of an example, float32.
    batch: examples of a seed.
    seeds: models that run.
    width: bytes of a number in the computation.
  """

  parameters: int
  inputs: int
  batch: int
  seeds: int
  width: int


def moved_in_training(shape: Shape, results: float) -> float:
  """Bytes that a step moves at least.

  Weights are read forward and backward, in the computation's type; in float32 the
  gradient is written and read, and both moments and the weights are read and written.
  Results are written, and read forward and backward; their gradient is written and
  read.

  Args:
    shape: of the step.
    results: of an example (`Network.results`).
  """
  weights = shape.parameters * (2 * shape.width + 8 * 4)
  example = 4 * shape.inputs + 5 * shape.width * results
  return shape.seeds * (weights + shape.batch * example)


def moved_in_prediction(shape: Shape, results: float) -> float:
  """Bytes that a batch moves at least; all seeds read the same inputs.

  Args:
    shape: of the batch.
    results: of an example; they are written and read.
  """
  own = shape.parameters + 2 * shape.batch * results
  return shape.width * (shape.seeds * own + shape.batch * shape.inputs)


def bound(seconds: float, work: Work, tflops: float, gbps: float) -> dict[str, Any]:
  """What bounds a time: the share of both peaks, and `bound`, the greater if it is one.

  Args:
    seconds: of a step or a batch.
    work: of it.
    tflops: peak arithmetic, in 1e12 operations per second.
    gbps: peak memory traffic, in 1e9 bytes per second.
  """
  shares = {
    'arithmetic': 2 * work.macs / (1e12 * tflops) / seconds,
    'memory': work.moved / (1e9 * gbps) / seconds,
  }
  greater = max(shares, key=shares.get)
  return shares | {'bound': greater if shares[greater] >= BOUND else 'overhead'}


class Training:
  """Compiled training, called as `jdyn.training` does, with the data on the device."""

  def __init__(self, network: Network, dtype: str, seeds: int, sizes: Sizes):
    stage = dataclasses.replace(network.stage, dtype=DTYPES[dtype])
    size, parallel = len(network.train), Parallel('jit')
    self._feed = DeviceFeed(network.train, range(seeds), stage.batch_size)
    self._programs = TrainPrograms(
      stage,
      network.train,
      self._feed,
      parallel,
      seeds,
      -(-size // stage.batch_size),
      build.run(network.config).unroll,
    )
    self._data = parallel.put(self._feed.data)
    self._state = parallel.put(self._programs.start(np.arange(seeds, dtype=np.uint32)))
    self._steps, self._calls, self._done = sizes.steps, sizes.calls, 0

  def __call__(self) -> float:
    """Trains on; seconds of a step."""
    starts = [self._done + i * self._steps for i in range(self._calls)]
    calls = [(start, self._steps) for start in starts]
    start = time.perf_counter()
    with jax.transfer_guard_device_to_host('disallow'):
      for (first, _), rows in zip(calls, self._feed.calls(calls), strict=True):
        self._state, _ = self._programs.call(self._state, self._data, first, rows)
      jax.block_until_ready(self._state)
    seconds = time.perf_counter() - start
    self._done += self._calls * self._steps
    return seconds / (self._calls * self._steps)

  def macs(self) -> float:
    """Of a step, all seeds."""
    (rows,) = self._feed.calls([(0, self._steps)])
    found = count_macs(self._programs.call, self._state, self._data, 0, rows)
    return found / self._steps


class Prediction:
  """Compiled prediction with batches on the device, under one policy.

  Args:
    network: to be run.
    dtype: of the computation.
    seeds: models; all predict the same batches.
    policy: `dense`, `ladder`, or for one seed `auto`.
    sizes: batches of a turn.
  """

  def __init__(self, network, dtype: str, seeds: int, policy: str, sizes: Sizes):
    found = jax.jit(jax.vmap(network.init))(jax.random.split(jax.random.key(0), seeds))
    found = {**found, 'params': cast(found['params'], DTYPES[dtype])}
    if seeds == 1:
      found = jax.tree.map(lambda x: x[0], found)
    inputs = [cast(batch['inputs'], DTYPES[dtype]) for batch in network.batches]
    hparams, forced = jax.tree.map(jnp.asarray, (HPARAMS, network.forced))
    self._inputs, self._count = jax.device_put(inputs), sizes.batches
    self._dispatcher = conditional(network.stage.model, network.costs)
    self.policy = policy
    if policy == 'auto':
      model = found, hparams
      self.policy = self._dispatcher.measure(model, self._inputs[0], None).policy
      self._run = lambda x: self._dispatcher(model, x, None, self.policy, forced)
      return
    program = jax.jit(self._program(policy, seeds))
    self._run = lambda x: program(found, hparams, x, forced)

  def _program(self, policy: str, seeds: int) -> Callable:
    one = self._dispatcher.program(policy)

    def run(variables, hparams, inputs, forced):
      return one((variables, hparams), inputs, None, forced)

    if seeds == 1:
      return run
    if policy == 'dense':
      return jax.vmap(run, in_axes=(0, None, None, None))

    def in_turn(variables, *rest):
      return jax.lax.map(lambda own: run(own, *rest), variables)

    return in_turn

  def __call__(self) -> float:
    """Predicts; seconds of a batch, all seeds."""
    # Only `buckets` looks at what was chosen.
    allowed = 'allow' if self.policy == 'buckets' else 'disallow'
    start = time.perf_counter()
    with jax.transfer_guard_device_to_host(allowed):
      found = [self._run(self._inputs[i % BATCHES]) for i in range(self._count)]
      jax.block_until_ready(found)
    return (time.perf_counter() - start) / self._count


class Row(NamedTuple):
  """A thing to measure.

  Attributes:
    name: `network/what/dtype/seeds`.
    shape: of a step or batch.
    ours: one turn -> seconds of a step or batch.
    ask: of PyTorch for the same, of one seed.
    work: what a step or batch takes, counted when asked for.
    more: for the row.
  """

  name: str
  shape: Shape
  ours: Callable[[], float]
  ask: dict[str, Any]
  work: Callable[[], Work]
  more: dict[str, Any]

  @property
  def examples(self) -> int:
    """Of a step or batch, all seeds."""
    return self.shape.seeds * self.shape.batch


def rows_of(network: Network, dtype: str, seeds: int, sizes: Sizes) -> Iterator[Row]:
  """The rows of one network, each built when it is asked for."""
  costs, batch = network.stage.costs, network.stage.batch_size
  width = jnp.dtype(DTYPES[dtype]).itemsize
  shape = Shape(costs.parameters, _size(network.example), batch, seeds, width)

  def make(what, ours, asked, count, work, **more):
    ask = dict(what=asked, dtype=dtype, count=count)
    name = f'{network.name}/{what}/{dtype}/{seeds}'
    return Row(name, shape, ours, ask, work, more)

  training = Training(network, dtype, seeds, sizes)
  yield make(
    'train',
    training,
    'train',
    sizes.calls * sizes.steps,
    lambda: Work(training.macs(), moved_in_training(shape, network.results())),
  )
  for policy in ('dense', 'ladder', 'auto') if seeds == 1 else ('dense', 'ladder'):
    ours = Prediction(network, dtype, seeds, policy, sizes)
    work = functools.partial(prediction_work, network, shape, policy == 'dense')
    asked = 'dense' if policy == 'dense' else 'conditional'
    yield make(policy, ours, asked, sizes.batches, work, policy=ours.policy)


def prediction_work(network: Network, shape: Shape, dense: bool) -> Work:
  """What a batch takes: every path of every example, or as they are forced."""
  costs, paths = network.stage.costs, network.stage.model.paths
  macs, results = costs.total, network.results()
  if not dense:
    shares = np.bincount(network.forced, minlength=len(paths)) / shape.batch
    macs = shares @ network.costs
    results = shares @ [network.results(path) for path in paths]
  moved = moved_in_prediction(shape, results)
  return Work(shape.seeds * shape.batch * macs, moved)


def measure(one: Row, torch: Other | None, compiled: bool, rounds: int) -> dict:
  """Examples per second of each side by round, after a turn that does not count."""

  def theirs(**form) -> float:
    answer = torch.ask(**one.ask, **form)
    # Seeds come one after another.
    return shape.batch * one.ask['count'] / answer['seconds']

  shape = one.shape
  sides = {'ours': lambda: one.examples / one.ours()}
  if torch and one.ask['what'] == 'conditional':
    sides['torch'] = theirs
  elif torch:
    sides['torch'] = functools.partial(theirs, compiled=False)
    if compiled:
      sides['compiled'] = functools.partial(theirs, compiled=True)
  found = {side: [] for side in sides}
  for turn in range(rounds + 1):
    for side, rate in sides.items():
      answer = rate()
      if turn:
        found[side].append(answer)
  return found


def result(one: Row, rates: dict, versions, peaks: Sequence[float] | None) -> dict:
  """The row, and its line of the table."""
  ours = statistics.median(rates['ours'])

  def beside(side):
    if side not in rates:
      return None, None
    pairs = zip(rates['ours'], rates[side], strict=True)
    ratios = [mine / theirs for mine, theirs in pairs]
    return statistics.median(rates[side]), statistics.median(ratios)

  theirs, ratio = beside('torch')
  compiled, compiled_ratio = beside('compiled')
  more, said = dict(one.more), ''
  if compiled:
    more |= {'compiled': compiled, 'compiled_ratio': compiled_ratio}
  if peaks:
    found = bound(one.examples / ours, one.work(), *peaks)
    said = f'{found["bound"]} ({found["arithmetic"]:.0%}, {found["memory"]:.0%})'
    more |= found
  cells = [_cell(theirs, ',.0f'), _cell(ratio, '.2f')]
  cells += [_cell(compiled, ',.0f'), _cell(compiled_ratio, '.2f')]
  print(FORMAT.format(one.name, f'{ours:,.0f}', *cells, said), flush=True)
  return row(one.name, ours, 'examples/s', theirs, ratio, versions, **more)


def _cell(x: float | None, form: str) -> str:
  return '' if x is None else format(x, form)


def _flat(tree: Any) -> dict[str, np.ndarray]:
  """Arrays by their place, joined with dots."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='.'): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def give(network: Network, torch: Other, folder: Path) -> None:
  """Gives PyTorch weights and batches, and checks that both sides are the same.

  Raises:
    SystemExit: they are not.
  """
  variables = jax.jit(network.init)(jax.random.key(0))
  flat = {}
  for collection in variables.values():
    flat |= _flat(collection)
  files = {name: str(folder / f'{name}.npz') for name in ('weights', 'batches')}
  np.savez(files['weights'], **flat)
  kept = [{key: batch[key] for key in ('inputs', 'label')} for batch in network.batches]
  np.savez(files['batches'], **_flat(pipeline.stack(kept)))
  optimizer = network.config.optimizer
  answer = torch.ask(
    what='load',
    network=network.name,
    **files,
    forced=network.forced.tolist(),
    task=network.task,
    prices=network.prices(),
    learning_rate=optimizer.learning_rate.init_value,
    weight_decay=optimizer.weight_decay,
    clip_norm=optimizer.clip_norm,
  )
  ours, theirs = network.stage.costs.parameters, answer['parameters']
  if ours != theirs:
    raise SystemExit(
      f'{network.name}: {ours:,} parameters here, {theirs:,} in PyTorch; '
      'torch_networks.py must follow the config.'
    )
  with jax.default_matmul_precision('highest'):
    found = jax.jit(
      lambda v, x: network.stage.model.apply(v, x, train=False, hparams=HPARAMS)
    )(variables, network.batches[0]['inputs'])
  mine = {**found.unimodal, 'gate': found.aux['gate_logits']}
  path = folder / 'outputs.npz'
  torch.ask(what='outputs', path=str(path))
  with np.load(path) as outputs:
    for name, logits in mine.items():
      error = np.abs(outputs[name] - logits).max() / np.abs(logits).max()
      if not error < 1e-3:
        raise SystemExit(f'{network.name}, {name}: the sides differ by {error:.1e}.')


def profile(one: Row, folder: Path) -> None:
  """Traces a turn, compiled before; `xprof` and Perfetto show it."""
  one.ours()
  with jax.profiler.trace(str(folder / one.name.replace('/', '_'))):
    one.ours()


def start_torch(args) -> Other | None:
  """PyTorch's side, on the same kind of device.

  Raises:
    SystemExit: it is not.
  """
  if not args.torch_python:
    return None
  driver = Path(__file__).with_name('torch_networks.py')
  mode = args.compile or 'default'
  torch = Other(args.torch_python, [driver, '--matmul', args.matmul, '--mode', mode])
  name = torch.versions['torch device']
  if (jax.default_backend() == 'cpu') != (name == 'cpu'):
    raise SystemExit(
      f'JAX runs on {device_name()} and PyTorch on {name}; install the CUDA build of '
      'the one that finds no card, or hide it from both (CUDA_VISIBLE_DEVICES=-1).'
    )
  return torch


def run(args, sizes: Sizes) -> list[dict]:
  """All rows, printed as they come."""
  torch = start_torch(args)
  load_now = os.getloadavg()[0]
  print(f'{device_name()}; float32 products in {args.matmul}; load {load_now:.1f}')
  head = ('examples/s', 'ours', 'PyTorch', 'ratio', 'compiled', 'ratio')
  print(FORMAT.format(*head, 'bound (arithmetic, memory)' if args.peak_gbps else ''))
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    for name in args.networks:
      network = Network(name, Path(folder), sizes.batch)
      if torch:
        give(network, torch, Path(folder))
      for dtype, seeds in itertools.product(args.dtypes, args.seeds):
        # Products of bfloat16 have no precision to choose.
        precision = PRECISIONS[args.matmul] if dtype == 'float32' else 'default'
        jax.config.update('jax_default_matmul_precision', precision)
        peaks = None
        if args.peak_gbps:
          peaks = args.peak_tflops[[*DTYPES].index(dtype)], args.peak_gbps
        for one in rows_of(network, dtype, seeds, sizes):
          if args.profile:
            profile(one, args.profile)
          rates = measure(one, torch, bool(args.compile), sizes.rounds)
          rows.append(result(one, rates, torch and torch.versions, peaks))
  if torch:
    torch.close()
  return rows


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--torch-python', help='interpreter with PyTorch')
  parser.add_argument('--networks', nargs='+', choices=NETWORKS, default=NETWORKS)
  parser.add_argument('--dtypes', nargs='+', choices=DTYPES, default=[*DTYPES])
  parser.add_argument('--seeds', nargs='+', type=int, default=[1, 10])
  parser.add_argument('--matmul', choices=PRECISIONS, default='tf32')
  parser.add_argument(
    '--compile',
    choices=('default', 'reduce-overhead', 'max-autotune'),
    help='mode of torch.compile, beside PyTorch without it',
  )
  parser.add_argument(
    '--peak-tflops', type=float, nargs=2, metavar=('FLOAT32', 'BFLOAT16')
  )
  parser.add_argument('--peak-gbps', type=float)
  parser.add_argument('--profile', type=Path, help='folder for traces of JAX')
  parser.add_argument('--batch', type=int, default=0, help="examples; 0: the config's")
  parser.add_argument('--steps', type=int, default=100, help='per training call')
  parser.add_argument('--calls', type=int, default=4, help='of training, per turn')
  parser.add_argument('--batches', type=int, default=200, help='predicted per turn')
  parser.add_argument('--rounds', type=int, default=7)
  parser.add_argument('--smoke', action='store_true', help='as little as possible')
  parser.add_argument('--json', type=Path, help='where to write the rows')
  args = parser.parse_args()
  if bool(args.peak_tflops) != bool(args.peak_gbps):
    parser.error('--peak-tflops and --peak-gbps: give both, or neither.')
  os.environ.setdefault('XLA_PYTHON_CLIENT_MEM_FRACTION', '0.4')
  sizes = Sizes(args.batch, args.steps, args.calls, args.batches, args.rounds)
  rows = run(args, SMOKE if args.smoke else sizes)
  if args.json:
    write_rows(args.json, rows)


if __name__ == '__main__':
  main()
