"""Training speed on MM-IMDB's features: this library beside the original's loop.

  python -m benchmarks.throughput [--original DIR --original-python PYTHON] [--json FILE]

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
their logits, which do not change.

The two sides take turns, so that a change of the machine's speed hits both. A ratio is
the median over rounds of the ratio within a round.
"""

import argparse
import contextlib
import dataclasses
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import jax
import numpy as np

from jdyn import build
from jdyn.data import pipeline
from jdyn.data.load import load
from jdyn.data.order import split_steps, train_rows
from jdyn.models.precomputed import logits_key
from jdyn.training.feed import DeviceFeed, HostFeed
from jdyn.training.parallel import Parallel
from jdyn.training.programs import TrainPrograms

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
    run = build.run(config)
    stage = build.stage(config, dataset.spec)
    self._batch_size, self._steps_per_call = stage.batch_size, run.steps_per_call
    train = dataset.splits['train']
    if stage.frozen:
      rng = np.random.default_rng(SEED)
      shape = (len(train), 1, dataset.spec.num_outputs)
      logits = {
        logits_key(path): rng.standard_normal(shape, dtype=np.float32)
        for path in stage.experts
      }
      train = dataclasses.replace(
        train, inputs={**train.inputs, **logits}, per_seed=tuple(logits)
      )
    self._train = train.only(stage.inputs)
    self._feeds = {
      'file': DeviceFeed(self._train, [SEED], self._batch_size),
      'memory': HostFeed(self._train, [SEED], self._batch_size, 1),
    }
    self._parallel = Parallel('jit')
    self._programs = {
      feed: TrainPrograms(stage, self._train, reader, self._parallel, 1, 1)
      for feed, reader in self._feeds.items()
    }
    self._data = self._parallel.put(self._feeds['file'].data)
    rows = train_rows(SEED, len(train), self._batch_size, 0, MEMORY_BATCHES)
    alone = self._train.for_seed(0)
    batches = pipeline.stack([pipeline.assemble(alone, batch) for batch in rows])
    self._memory = self._parallel.put(jax.tree.map(lambda x: x[None], batches))

  def time_epoch(self, feed: str, steps: int) -> dict[str, float]:
    """Trains for `steps` steps; the first call of a feed compiles."""
    programs = self._programs[feed]
    state = programs.start(np.array([SEED], np.uint32))
    lengths = split_steps(steps, self._steps_per_call if feed == 'file' else 16)
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    calls = list(zip(starts, lengths, strict=True))
    jax.block_until_ready(state)
    start = time.perf_counter()
    if feed == 'file':
      for xs in self._feeds[feed].calls(calls):
        state, _ = programs.call(state, self._data, xs)
    else:
      for _, length in calls:
        xs = jax.tree.map(lambda x, n=length: x[:, :n], self._memory)
        state, _ = programs.call(state, (), xs)
    jax.block_until_ready(state)
    seconds = time.perf_counter() - start
    return {'seconds': seconds, 'examples': steps * self._batch_size}


class Original:
  """The original's loop, in its own interpreter; it waits while the other side runs."""

  def __init__(self, checkout: Path, python: str, data: Path, threads: int):
    driver = Path(__file__).with_name('original_dynmm.py')
    self._process = subprocess.Popen(
      [python, driver, checkout.resolve(), data, '--threads', str(threads)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    self.versions = self._answer()

  def time_epoch(self, model: str, feed: str, steps: int) -> dict[str, float]:
    """One epoch of at most `steps` steps of a new model."""
    request = {'model': model, 'feed': feed, 'steps': steps}
    self._process.stdin.write(json.dumps(request) + '\n')
    self._process.stdin.flush()
    return self._answer()

  def _answer(self):
    line = self._process.stdout.readline()
    if not line:
      raise SystemExit('The original failed; see above.')
    return json.loads(line)

  def close(self):
    """Ends the interpreter."""
    self._process.stdin.close()
    self._process.wait()
