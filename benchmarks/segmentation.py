"""Gated RGB-D segmentation (DynMM on ESANet) beside the original's code.

  python -m benchmarks.segmentation [--backbone resnet50] [--json FILE]
    [--original DIR --original-python PYTHON]

DIR is a checkout of zihuixue/DynMM, PYTHON an interpreter with torch. Without them only
this library is measured, on a GPU if JAX has one, with `--dtype bfloat16` too. With
them both run on the CPU, in float32, with the same weights, images and labels; that
they compute the same is checked first. Images have 480 x 640 pixels, and 40 classes.

- `exit k`: both stems, the gate, the stages of the depth encoder up to the k-th, and
  the rest of the network, as `predict` runs it if the gate sends all examples there:
  by `--policy` where there are several, by `switch` where there is one. The original
  has no such function: its modules are called one after another, without those that
  the exit does not need. `published` is its own `forward`, which computes every stage
  for every exit.
- `train`: a step with the losses of four scales, the straight-through gate and SGD,
  and the most memory that it takes. Ours is what the compiler reserves; the original's
  is the growth of its process.

`share` is how much of what an exit saves in multiply-accumulates is saved in time: the
ratio of the last exit's time to this exit's, over the same ratio of their
multiply-accumulates. The sides take turns. A time is the best and the median of the
rounds; `ratio`, original over ours, is the median of the ratios within a round. `busy`
is the same for the time of the processors, and `share` is by that time on a CPU. While
other programs run, only these mean much, and only with `--threads 1`: threads that wait
for each other count as busy.

A training step allocates gigabytes, and the system may take as long to hand out memory
as the step to compute. These variables make glibc keep it, for both sides:

  MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000
  MALLOC_TOP_PAD_=1000000000 MALLOC_ARENA_MAX=1
"""

import argparse
import functools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.other import Other
from benchmarks.rows import row, write_rows
from jdyn.cost import count_macs
from jdyn.encoders.identity import Identity
from jdyn.encoders.resnet import ResNet
from jdyn.encoders.strided_conv import StridedConv
from jdyn.evaluators.conditional import conditional
from jdyn.evaluators.latency import device_name
from jdyn.gates.learned import LearnedGate
from jdyn.interop import esanet
from jdyn.models.esanet import ESANet
from jdyn.models.gated_stages import GatedStages
from jdyn.ops.dispatcher import POLICIES
from jdyn.ops.pixel_loss import pixel_loss
from jdyn.typing import weighted_mean

HEIGHT, WIDTH, CLASSES, EXITS = 480, 640, 40, 5
BACKBONES = {'resnet34': 'non_bottleneck_1d', 'resnet50': 'bottleneck'}
SCALES = (1, 8, 16, 32)
HPARAMS = {'gate_temperature': 1.0, 'gate_hard': True}
FORMAT = '{:12}{:>8}{:>18}{:>18}{:>8}{:>8}{:>8}'


class Ours:
  """The compiled functions of this library's network.

  Args:
    backbone: one of `BACKBONES`.
    dtype: of the computation.
    policy: of batches, from `jdyn.ops.dispatcher.POLICIES`.
    weights: the original's checkpoint; random ones if None.
  """

  def __init__(
    self, backbone: str, dtype: str, policy: str, weights: Path | None = None
  ):
    block = BACKBONES[backbone]
    encoders = {'rgb': ResNet(block), 'depth': ResNet(block)}
    network = ESANet(encoders, CLASSES)
    self._model = GatedStages(network, LearnedGate(StridedConv(EXITS), Identity()))
    self._dtype, self._policy = dtype, policy
    template = jax.eval_shape(
      lambda images: self._model.init(
        jax.random.key(0), images, train=False, hparams=HPARAMS
      ),
      {name: jnp.zeros((1, 96, 96, c)) for name, c in (('rgb', 3), ('depth', 1))},
    )
    found = esanet.convert(weights, template) if weights else _random(template)
    self._variables = jax.tree.map(jnp.asarray, found)
    # Costs matter to budgets alone.
    self._dispatcher = conditional(self._model, np.zeros(EXITS))
    self._sgd = optax.chain(
      optax.add_decayed_weights(1e-4), optax.sgd(1e-5, 0.9, nesterov=True)
    )
    self._step = jax.jit(self._update, donate_argnums=0)

  def load(self, arrays) -> None:
    """Takes images and labels."""
    arrays = jax.tree.map(jnp.asarray, dict(arrays))
    self._labels = [arrays[f'label_{k}'] for k in SCALES]
    self._images = {name: arrays[name].astype(self._dtype) for name in ('rgb', 'depth')}
    self._state = None

  def exit(self, number: int) -> dict[str, float]:
    """Times one exit; the first call compiles."""
    variables = self._cast(self._variables)
    return _timed(lambda: self._exit(number, variables))

  def logits(self, number: int) -> jax.Array:
    """What `exit` computes."""
    return self._exit(number, self._cast(self._variables))

  def macs(self) -> list[int]:
    """Multiply-accumulates of an example, by exit."""
    one = {name: image[:1] for name, image in self._images.items()}

    def run(number):
      def exit(model, images):
        gated, maps = model.route(images, train=False, hparams=HPARAMS)
        return model.exit(number, maps, train=False).logits, gated.weights

      return lambda v, images: self._model.apply(v, images, method=exit)

    return [count_macs(run(number), self._variables, one) for number in range(EXITS)]

  def step(self) -> dict[str, float]:
    """Times a training step; the first call compiles."""
    if self._state is None:
      params = jax.tree.map(jnp.copy, self._variables['params'])
      statistics = jax.tree.map(jnp.copy, self._variables['batch_stats'])
      self._state = params, statistics, self._sgd.init(params)
    start, busy = time.perf_counter(), time.process_time()
    self._state = jax.block_until_ready(
      self._step(self._state, self._images, self._labels)
    )
    return _since(start, busy)

  def memory(self) -> int:
    """Bytes of a training step: arguments, results and everything between."""
    params = self._variables['params']
    state = params, self._variables['batch_stats'], self._sgd.init(params)
    compiled = self._step.lower(state, self._images, self._labels).compile()
    found = compiled.memory_analysis()
    return (
      found.argument_size_in_bytes
      + found.output_size_in_bytes
      - found.alias_size_in_bytes
      + found.temp_size_in_bytes
    )

  def _cast(self, variables):
    params = jax.tree.map(lambda x: x.astype(self._dtype), variables['params'])
    return {**variables, 'params': params}

  def _exit(self, number, variables):
    size = len(self._images['rgb'])
    policy = 'switch' if size == 1 else self._policy
    forced = np.full(size, number, np.int32)
    model = variables, HPARAMS
    return self._dispatcher(model, self._images, None, policy, forced)[2]

  def _update(self, state, images, labels):
    params, statistics, opt_state = state

    def loss(params):
      outputs, collections = self._model.apply(
        self._cast({'params': params, 'batch_stats': statistics}),
        images,
        train=True,
        hparams=HPARAMS,
        mutable=['batch_stats'],
      )
      scales = [outputs.logits] + [outputs.aux[f'down_{k}'] for k in SCALES[1:]]
      losses = [
        weighted_mean(*pixel_loss(logits.astype(jnp.float32), label)).compute()
        for logits, label in zip(scales, labels, strict=True)
      ]
      return sum(losses), collections['batch_stats']

    grads, statistics = jax.grad(loss, has_aux=True)(params)
    updates, opt_state = self._sgd.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), statistics, opt_state


def _random(template):
  """Variables whose maps neither grow nor vanish much; their values do not matter."""
  random = np.random.default_rng(0)

  def draw(path, leaf):
    name = path[-1].key
    if name == 'kernel':
      scale = np.sqrt(1 / np.prod(leaf.shape[:-1]))
      return scale * random.standard_normal(leaf.shape, np.float32)
    return (np.ones if name in ('scale', 'var') else np.zeros)(leaf.shape, np.float32)

  return jax.tree_util.tree_map_with_path(draw, template)


def _timed(run) -> dict[str, float]:
  start, busy = time.perf_counter(), time.process_time()
  jax.block_until_ready(run())
  return _since(start, busy)


def _since(start: float, busy: float) -> dict[str, float]:
  """Seconds on the clock and of the processor."""
  return {
    'seconds': time.perf_counter() - start,
    'processor': time.process_time() - busy,
  }


def examples(size: int) -> dict[str, np.ndarray]:
  """A batch of noise, with labels of every scale."""
  random = np.random.default_rng(0)
  batch = {
    name: random.standard_normal((size, HEIGHT, WIDTH, channels), np.float32)
    for name, channels in (('rgb', 3), ('depth', 1))
  }
  for k in SCALES:
    shape = (size, HEIGHT // k, WIDTH // k)
    batch[f'label_{k}'] = random.integers(CLASSES + 1, size=shape, dtype=np.int32)
  return batch


def take_turns(rounds: int, calls) -> dict[str, list[dict[str, float]]]:
  """The times of each call in every round, after one of each that is not counted."""
  found = {name: [] for name in calls}
  for turn in range(rounds + 1):
    for name, call in calls.items():
      answer = call()
      if turn:
        found[name].append(answer)
  return found


class Table:
  """Prints lines of a comparison and keeps their rows."""

  def __init__(self, title: str, versions):
    self.rows, self._title, self._versions = [], title, versions

  def line(self, name, ours, theirs=None, macs=None, share=None):
    """One comparison.

    Args:
      name: what was timed.
      ours: times, by round.
      theirs: of the original; None without.
      macs: multiply-accumulates of a run.
      share: as in the module's docstring.
    """
    ratio, busy = (
      theirs and ratio_of(theirs, ours, clock) for clock in ('seconds', 'processor')
    )
    cells = [_cell(ours), _cell(theirs) if theirs else '']
    print(
      FORMAT.format(
        name,
        f'{macs / 1e9:.1f}' if macs else '',
        *cells,
        f'{ratio:.2f}' if ratio else '',
        f'{busy:.2f}' if busy else '',
        f'{share:.0%}' if share else '',
      ),
      flush=True,
    )
    self.rows.append(
      row(
        f'{self._title} {name}',
        1e3 * _median(ours),
        'ms',
        1e3 * _median(theirs) if theirs else None,
        ratio,
        self._versions,
        best=1e3 * _best(ours),
        baseline_best=1e3 * _best(theirs) if theirs else None,
        processor_ratio=busy,
        share=share,
        rounds=len(ours),
      )
    )


def ratio_of(theirs, ours, clock: str) -> float:
  """The median over rounds of how many times longer they took."""
  pairs = zip(theirs, ours, strict=True)
  return statistics.median(other[clock] / mine[clock] for other, mine in pairs)


def _median(times) -> float:
  return statistics.median(found['seconds'] for found in times)


def _best(times) -> float:
  return min(found['seconds'] for found in times)


def _cell(times) -> str:
  return f'{1e3 * _best(times):.0f} / {1e3 * _median(times):.0f}'


def inference(ours, original, size, rounds, title) -> list[dict]:
  """All exits at one batch size."""
  calls = {}
  for number in range(EXITS):
    calls[f'exit {number}'] = functools.partial(ours.exit, number)
    if original:
      ask = functools.partial(original.ask, what='exit', number=number)
      calls[f'original {number}'] = ask
  if original:
    calls['published'] = functools.partial(original.ask, what='published')
  found = take_turns(rounds, calls)
  macs = [size * count for count in ours.macs()]
  table = Table(title, original and original.versions)
  last = found[f'exit {EXITS - 1}']
  clock = 'processor' if jax.default_backend() == 'cpu' else 'seconds'
  for number, count in enumerate(macs):
    mine = found[f'exit {number}']
    share = ratio_of(last, mine, clock) / (macs[-1] / count)
    theirs = found.get(f'original {number}')
    table.line(f'exit {number}', mine, theirs, count, share)
  if original:
    table.line('published', last, found['published'], macs[-1])
  return table.rows


def training(ours, original, rounds, title) -> list[dict]:
  """Steps, and the memory that they take."""
  before = original and original.ask(what='memory')['peak']
  calls = {'step': ours.step}
  if original:
    calls['original'] = functools.partial(original.ask, what='step')
  found = take_turns(rounds, calls)
  table = Table(title, original and original.versions)
  table.line('step', found['step'], found.get('original'))
  mine, theirs = ours.memory() / 2**20, None
  if original:
    theirs = (original.ask(what='memory')['peak'] - before) / 2**20
  ratio = theirs and theirs / mine
  cells = [f'{mine:.0f} MiB', f'{theirs:.0f} MiB' if theirs else '']
  print(FORMAT.format('memory', '', *cells, f'{ratio:.2f}' if ratio else '', '', ''))
  return [*table.rows, row(f'{title} memory', mine, 'MiB', theirs, ratio)]


def check(ours, original, folder: Path) -> None:
  """Whether both sides compute the same."""
  path = folder / 'logits.npy'
  for number in (0, EXITS - 1):
    original.ask(what='logits', number=number, path=str(path))
    theirs, mine = np.load(path), np.asarray(ours.logits(number))
    error = np.abs(mine - theirs).max() / np.abs(theirs).max()
    if error > 1e-4:
      raise SystemExit(f'exit {number}: the sides differ by {error:.1e}.')


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--original', type=Path, help='checkout to compare with')
  parser.add_argument('--original-python', default=sys.executable)
  parser.add_argument('--backbone', choices=BACKBONES, default='resnet34')
  parser.add_argument('--batch', type=int, nargs='*', default=[1, 8], help='inference')
  parser.add_argument('--train-batch', type=int, default=2, help='0 for no training')
  parser.add_argument('--threads', type=int, default=len(os.sched_getaffinity(0)))
  parser.add_argument('--rounds', type=int, default=7)
  parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32')
  parser.add_argument(
    '--policy', choices=POLICIES, help='of batches: each on a CPU, ladder elsewhere'
  )
  parser.add_argument('--json', type=Path, help='where to write the rows')
  args = parser.parse_args()
  if args.original:
    if args.dtype != 'float32':
      parser.error('--dtype: the original is measured in float32.')
    jax.config.update('jax_platforms', 'cpu')
  # Both sides have as many threads as there are processors to run them.
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
  with tempfile.TemporaryDirectory() as folder:
    rows = measure(args, Path(folder))
  if args.json:
    write_rows(args.json, rows)


def measure(args, folder: Path) -> list[dict]:
  """All tables."""

  def start():
    if not args.original:
      return None
    driver = Path(__file__).with_name('original_esanet.py')
    return Other(
      args.original_python,
      [driver, args.original.resolve(), args.backbone, '--threads', args.threads],
    )

  original, weights = start(), None
  if original:
    weights = folder / 'weights.pth'
    original.ask(what='save', path=str(weights))
  default = 'each' if jax.default_backend() == 'cpu' else 'ladder'
  ours = Ours(args.backbone, args.dtype, args.policy or default, weights)
  load = os.getloadavg()[0]
  print(f'{device_name()}; {args.dtype}; {args.threads} threads; load {load:.1f}')
  rows = []
  for size in args.batch:
    title = f'{args.backbone} batch {size}'
    give(size, ours, original, folder, title)
    if original:
      check(ours, original, folder)
    rows += inference(ours, original, size, args.rounds, title)
  if original:
    original.close()  # A new one, so that its memory is that of training alone.
  if args.train_batch:
    original = start()
    title = f'{args.backbone} training, batch {args.train_batch}'
    give(args.train_batch, ours, original, folder, title)
    rows += training(ours, original, args.rounds, title)
    if original:
      original.close()
  return rows


def give(size: int, ours, original, folder: Path, title: str) -> None:
  """Hands a batch to both sides, and prints the head of its table."""
  batch = examples(size)
  ours.load(batch)
  if original:
    np.savez(folder / 'batch.npz', **batch)
    original.ask(what='load', path=str(folder / 'batch.npz'))
  print(f'\n{title}')
  head = '', 'GMAC', 'ours, ms', 'original, ms', 'ratio', 'busy', 'share'
  print(FORMAT.format(*head))


if __name__ == '__main__':
  main()
