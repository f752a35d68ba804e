"""Training speed on MM-IMDB's features on the CPU, beside the original's own loop.

  python -m benchmarks.throughput [--json FILE]
    [--original DIR --original-python PYTHON]

DIR is a checkout of MultiBench with the folders of DynMM's `ModalityDynMM` copied
to their places in it, PYTHON an interpreter with torch, h5py, scikit-learn and tqdm.
Without them only this library is timed.

Both sides train on the same file of MM-IMDB's layout, in batches of 128, with AdamW
and clipping, in float32. Two quantities, in examples per second:

- `load and step`: one epoch of training from the file. The original reads rows of
  the file in eight processes; this library has read the file once before (that time
  is a row of its own) and gathers batches inside the compiled program.
- `step`: the same loop on 16 batches that are in memory already.

Three networks: `late_fusion`, DynMM's expert on both modalities; `gated_joint`, the
gate and all experts trained together; `gated_frozen`, the gate alone. For the last one
the original computes its experts in every step (`--freeze`), and this library looks up
their logits, which do not change; computing them once is a row of its own.

The two sides take turns, so that a change of the machine's speed hits both. A ratio is
the median over rounds of the ratio within a round. On a machine that is busy with other
things the ratios mean little (threads that wait for each other suffer most), so its
load at the start is printed.
"""

import argparse
import dataclasses
import importlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import h5py
import jax
import numpy as np

from benchmarks.other import Other
from benchmarks.rows import row, write_rows
from jdyn import build
from jdyn.data import pipeline
from jdyn.data.load import load
from jdyn.data.order import split_steps, train_rows
from jdyn.evaluators.latency import device_name
from jdyn.models.precomputed import logits_key
from jdyn.training.feed import DeviceFeed, HostFeed
from jdyn.training.parallel import Parallel
from jdyn.training.programs import Evaluator, TrainPrograms

NETWORKS = {
  'late_fusion': ('mmimdb_concat', 'eval'),
  'gated_joint': ('mmimdb_dyn', 'none'),
  'gated_frozen': ('mmimdb_dyn', 'eval'),
}
"""Config of each network, and what happens to the experts."""

FEEDS = {'file': 'load and step', 'memory': 'step'}
MEMORY_BATCHES = 16
SEED = 0


def write_data(folder: Path) -> None:
  """Random features in the layout and of the size of MM-IMDB's file."""
  rng, size = np.random.default_rng(SEED), 25_959
  with h5py.File(folder / 'multimodal_imdb.hdf5', 'w') as file:
    for name, width in (('features', 300), ('vgg_features', 4096)):
      values = file.create_dataset(name, (size, width), 'f4')
      for start in range(0, size, 4096):
        rows = min(4096, size - start)
        values[start : start + rows] = rng.random((rows, width), dtype=np.float32)
    file['genres'] = rng.integers(2, size=(size, 23), dtype=np.int32)
    file['genres'].attrs['target_names'] = json.dumps([f'genre {i}' for i in range(23)])
    file['imdb_ids'] = np.array([f'{row:07d}' for row in range(size)], 'S7')


class Ours:
  """This library's compiled training call for one network, by feed."""

  def __init__(self, config, dataset):
    self._parallel = Parallel('jit')
    run = build.run(config)
    stage = build.stage(config, dataset.spec)
    self._batch_size, self._steps_per_call = stage.batch_size, run.steps_per_call
    train = dataset.splits['train']
    self.lookup_seconds = 0.0
    if stage.frozen:
      train = self._with_logits(stage, train, run.device_bytes)
    self._train = train.only(stage.inputs)
    self._feeds = {
      'file': DeviceFeed(self._train, [SEED], self._batch_size),
      'memory': HostFeed(self._train, [SEED], self._batch_size, 1),
    }
    self._programs = {
      feed: TrainPrograms(stage, self._train, reader, self._parallel, 1, 1)
      for feed, reader in self._feeds.items()
    }
    self._data = self._parallel.put(self._feeds['file'].data)
    rows = train_rows(SEED, len(train), self._batch_size, 0, MEMORY_BATCHES)
    alone = self._train.for_seed(0)
    batches = pipeline.stack([pipeline.assemble(alone, batch) for batch in rows])
    self._memory = self._parallel.put(jax.tree.map(lambda x: x[None], batches))

  def _with_logits(self, stage, train, device_bytes):
    """The split with the logits of untrained experts; how long they take, once."""
    logits = {}
    for path, expert in stage.experts.items():
      split = train.only(expert.inputs)
      one = pipeline.assemble(split, np.zeros(1, np.int32))['inputs']
      variables = expert.model.init(jax.random.key(SEED), one, train=False, hparams={})
      evaluate = Evaluator(
        expert.model,
        split,
        self._parallel,
        1,
        task=expert.task,
        terms={},
        batch_size=expert.batch_size,
        device_bytes=device_bytes,
        keep=lambda outputs, batch: outputs.logits,
      )
      variables = jax.tree.map(lambda x: x[None], variables)
      evaluate(variables, {}, {})  # Compiles.
      start = time.perf_counter()
      *_, found = evaluate(variables, {}, {})
      self.lookup_seconds += time.perf_counter() - start
      logits[logits_key(path)] = np.moveaxis(found, 0, 1)
    inputs = {**train.inputs, **logits}
    return dataclasses.replace(train, inputs=inputs, per_seed=tuple(logits))

  def time_epoch(self, feed: str, steps: int) -> dict[str, float]:
    """Trains for `steps` steps; the first call of a feed compiles."""
    programs = self._programs[feed]
    state = programs.start(np.array([SEED], np.uint32))
    calls = self._calls(feed, steps)
    jax.block_until_ready((state, calls))
    start = time.perf_counter()
    if feed == 'file':
      calls = self._feeds[feed].calls(calls)
    data, done = self._data if feed == 'file' else (), 0
    for xs in calls:
      state, _ = programs.call(state, data, done, xs)
      done += jax.tree.leaves(xs)[0].shape[1]
    jax.block_until_ready(state)
    seconds = time.perf_counter() - start
    return {'seconds': seconds, 'examples': steps * self._batch_size}

  def _calls(self, feed, steps):
    """`(first step, steps)` per call, or its batches where they are in memory."""
    if feed == 'file':
      lengths = split_steps(steps, self._steps_per_call)
      starts = np.cumsum([0, *lengths[:-1]]).tolist()
      return list(zip(starts, lengths, strict=True))
    lengths = split_steps(steps, MEMORY_BATCHES)
    cut = {n: jax.tree.map(lambda x, n=n: x[:, :n], self._memory) for n in set(lengths)}
    return [cut[n] for n in lengths]


def rate(timed) -> float:
  return timed['examples'] / timed['seconds']


def measure(network, dataset, original, steps, rounds):
  """The rows of one network, printed as they come."""
  name, freeze = NETWORKS[network]
  config = importlib.import_module(f'configs.{name}').get_config()
  config.freeze = freeze
  ours = Ours(config, dataset)
  for feed in FEEDS:
    ours.time_epoch(feed, steps)  # Compiles.
    if original:
      original.ask(model=network, feed=feed, steps=2)
    pairs = []
    for _ in range(rounds):
      theirs = original and rate(original.ask(model=network, feed=feed, steps=steps))
      pairs.append((rate(ours.time_epoch(feed, steps)), theirs))
    yield rate_row(network, feed, pairs, original and original.versions)
  if ours.lookup_seconds:
    title = f'mmimdb {network}: logits of the experts, once'
    print(f'{title:42}{ours.lookup_seconds:10.1f} s')
    yield row(title, ours.lookup_seconds, 's')


def rate_row(network, feed, pairs, versions):
  """The row of one network and feed, and its line of the table."""
  ours = statistics.median(mine for mine, _ in pairs)
  name = f'mmimdb {network}: {FEEDS[feed]}'
  if pairs[0][1] is None:
    print(f'{name:42}{ours:12,.0f}')
    return row(name, ours, 'examples/s')
  theirs = statistics.median(other for _, other in pairs)
  ratios = [mine / other for mine, other in pairs]
  ratio = statistics.median(ratios)
  spread = f'{min(ratios):.1f} to {max(ratios):.1f}'
  print(f'{name:42}{ours:12,.0f}{theirs:12,.0f}{ratio:8.1f}   {spread}')
  return row(name, ours, 'examples/s', theirs, ratio, versions)


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--original', type=Path, help='checkout to compare with')
  parser.add_argument('--original-python', default=sys.executable)
  parser.add_argument('--data', type=Path, help="folder of MM-IMDB's file, or made up")
  parser.add_argument('--json', type=Path, help='where to write the rows')
  parser.add_argument('--networks', nargs='+', choices=NETWORKS, default=[*NETWORKS])
  parser.add_argument('--steps', type=int, default=122, help='at most, per epoch')
  parser.add_argument('--rounds', type=int, default=3)
  args = parser.parse_args()

  jax.config.update('jax_platforms', 'cpu')
  threads = len(os.sched_getaffinity(0))
  with tempfile.TemporaryDirectory() as folder:
    root = args.data or Path(folder)
    if not args.data:
      write_data(root)
    config = importlib.import_module('configs.mmimdb_concat').get_config()
    start = time.perf_counter()
    dataset = load(build.source(config), str(root), cache=Path(folder))
    rows = [row('mmimdb: read and check the file', time.perf_counter() - start, 's')]
    original = None
    if args.original:
      data = root / 'multimodal_imdb.hdf5'
      driver = Path(__file__).with_name('original_dynmm.py')
      checkout = args.original.resolve()
      original = Other(
        args.original_python, [driver, checkout, data.resolve(), '--threads', threads]
      )

    print(
      f'{device_name()}; {threads} threads on each side, load {os.getloadavg()[0]:.1f}'
    )
    print(f'reading and checking the file once: {rows[0]["value"]:.1f} s')
    print(f'{"examples/s":42}{"ours":>12}{"original":>12}{"ratio":>8}   range')
    for network in args.networks:
      rows += measure(network, dataset, original, args.steps, args.rounds)
    if original:
      original.close()
  if args.json:
    write_rows(args.json, rows)


if __name__ == '__main__':
  main()
