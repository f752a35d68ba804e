"""From rows to batches on the host, one by one and by Grain."""

import dataclasses

import jax
import numpy as np
import pytest

from jdyn.data.order import train_rows
from jdyn.data.pipeline import assemble, nbytes, stack, stream
from tests import toys

SEEDS = (3, 11)
BATCH = 5
CALLS = [(0, 2), (2, 2), (4, 1)]


def _shorten(inputs):
  """Pads to the longest of the batch, as a reader of packed sequences does."""
  longest = inputs['audio']['length'].max()
  steps = inputs['audio']['steps'][:, :longest]
  return {**inputs, 'audio': {**inputs['audio'], 'steps': steps}}


def _scale(inputs):
  # Not a division: XLA would make it this product, which rounds differently.
  return {**inputs, 'image': inputs['image'].astype('float32') * (1 / 255)}


def _with_logits(split):
  """Cached logits of an expert, one set per seed."""
  rng = np.random.default_rng(1)
  logits = rng.standard_normal((len(split), len(SEEDS), 3)).astype(np.float32)
  inputs = {**split.inputs, 'logits/text': logits}
  return dataclasses.replace(split, inputs=inputs, per_seed=('logits/text',))


def _pixels(split):
  """Bytes that are decoded per batch."""
  image = (16 * np.abs(split.inputs['image'])).astype(np.uint8)
  inputs = {**split.inputs, 'image': image}
  return dataclasses.replace(split, inputs=inputs, decode=_scale)


SPLIT = toys.split(13)
SPLITS = {
  'plain': SPLIT,
  'decode': _pixels(SPLIT),
  'collate': dataclasses.replace(SPLIT, collate=_shorten),
  'per_seed': _with_logits(SPLIT),
}


def _assert_equal(got, want):
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def test_a_batch_is_the_rows_and_what_belongs_to_them():
  rows = np.array([4, 0, 4], np.int32)
  batch = assemble(SPLIT, rows)
  np.testing.assert_array_equal(batch['inputs']['text'], SPLIT.inputs['text'][rows])
  np.testing.assert_array_equal(
    batch['inputs']['audio']['length'], SPLIT.inputs['audio']['length'][rows]
  )
  np.testing.assert_array_equal(batch['label'], SPLIT.label[rows])
  np.testing.assert_array_equal(batch['index'], rows)
  np.testing.assert_array_equal(batch['mask'], np.ones(3))
  mask = np.array([1, 1, 0], np.float32)
  np.testing.assert_array_equal(assemble(SPLIT, rows, mask)['mask'], mask)


def test_decoding_comes_before_padding_to_the_longest():
  seen = []

  def decode(inputs):
    seen.append('decode')
    return inputs

  def collate(inputs):
    seen.append('collate')
    return _shorten(inputs)

  split = dataclasses.replace(SPLIT, decode=decode, collate=collate)
  short = np.flatnonzero(SPLIT.inputs['audio']['length'] < toys.STEPS)
  batch = assemble(split, short)
  assert seen == ['decode', 'collate']
  longest = SPLIT.inputs['audio']['length'][short].max()
  assert batch['inputs']['audio']['steps'].shape[1] == longest < toys.STEPS


@pytest.mark.parametrize('name', SPLITS)
def test_the_stream_is_what_one_would_assemble_by_hand(name):
  split = SPLITS[name]
  calls = CALLS if name != 'collate' else [(step, 1) for step in range(5)]
  seeds = SEEDS if name != 'collate' else SEEDS[:1]
  streamed = list(stream(split, seeds, BATCH, calls))
  # What is decoded example by example is left to the program, which reads less then.
  split = dataclasses.replace(split, decode=None)
  assert len(streamed) == len(calls)
  for record, (start, steps) in zip(streamed, calls, strict=True):
    want = []
    for position, seed in enumerate(seeds):
      own = split.for_seed(position)
      rows = train_rows(seed, len(split), BATCH, start, steps)
      want.append(stack([assemble(own, row) for row in rows]))
    _assert_equal(record, stack(want))


def _add_noise(key, rng):
  """An example of an augmented split, which depends on its place in the batch."""
  row = int(np.flatnonzero(SPLIT.ids == key)[0])
  image = SPLIT.inputs['image'][row] + rng.standard_normal(dtype=np.float32)
  return {'image': image}, SPLIT.label[row]


AUGMENTED = dataclasses.replace(SPLIT.only(['image']), augment=_add_noise)


@pytest.mark.parametrize('name', [*SPLITS, 'augment'])
@pytest.mark.parametrize('own', [slice(0, 2), slice(2, 5)])
def test_processes_read_their_own_rows_of_the_same_batches(name, own):
  split = {**SPLITS, 'augment': AUGMENTED}[name]
  seeds = SEEDS if name != 'collate' else SEEDS[:1]
  calls = [(step, 1) for step in range(3)]
  whole = list(stream(split, seeds, BATCH, calls))
  parts = list(stream(split, seeds, BATCH, calls, own=own))
  for part, batch in zip(parts, whole, strict=True):
    _assert_equal(part, jax.tree.map(lambda leaf: leaf[:, :, own], batch))
  rows, mask = np.arange(BATCH, dtype=np.int32), np.linspace(0, 1, BATCH)
  want = jax.tree.map(lambda leaf: leaf[own], assemble(split, rows, mask))
  _assert_equal(assemble(split, rows, mask, own), want)


def test_each_seed_reads_its_own_logits():
  split = SPLITS['per_seed']
  (record,) = stream(split, SEEDS, BATCH, [(0, 1)])
  for position in range(len(SEEDS)):
    rows = record['index'][position, 0]
    np.testing.assert_array_equal(
      record['inputs']['logits/text'][position, 0],
      split.inputs['logits/text'][rows, position],
    )


def test_a_stream_can_start_anywhere():
  whole = list(stream(SPLIT, SEEDS, BATCH, CALLS))
  _assert_equal(list(stream(SPLIT, SEEDS, BATCH, CALLS[1:])), whole[1:])


def test_size_counts_every_leaf():
  assert nbytes(SPLIT) == 13 * 4 * (toys.STEPS * 2 + 1 + 6 + 4)
