"""Both feeds give the same batches, which are those assembled by hand."""

import dataclasses

import jax
import numpy as np
import pytest

from jdyn.training.feed import DeviceFeed, HostFeed, fits, make_feed
from tests import toys
from tests.data.test_pipeline import BATCH, CALLS, SEEDS, SPLITS

OPTIONS = dict(device_bytes=10**6, num_threads=1)


@pytest.mark.parametrize('name', ['plain', 'decode', 'per_seed'])
def test_device_and_host_feed_the_same_batches(name):
  split = SPLITS[name]
  host = HostFeed(split, SEEDS, BATCH, num_threads=2)
  device = DeviceFeed(split, SEEDS, BATCH)
  for from_host, rows in zip(host.calls(CALLS), device.calls(CALLS), strict=True):
    for position in range(len(SEEDS)):
      own = DeviceFeed(split.for_seed(position), SEEDS, BATCH)
      fetch = jax.jit(jax.vmap(own.fetch, (None, 0)))  # Over the steps of a call.
      got = fetch(own.data, rows[position])
      want = jax.tree.map(lambda x, s=position: x[s], from_host)
      want = jax.vmap(host.fetch, (None, 0))(host.data, want)
      assert jax.tree.structure(got) == jax.tree.structure(want)
      jax.tree.map(np.testing.assert_array_equal, got, want)
      for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype


def test_small_splits_live_on_the_device_and_others_do_not():
  split = SPLITS['plain']
  assert fits(split, 10**6)
  assert not fits(split, 100)
  assert isinstance(make_feed(split, SEEDS, 4, feed='auto', **OPTIONS), DeviceFeed)
  small = {**OPTIONS, 'device_bytes': 100}
  assert isinstance(make_feed(split, SEEDS, 4, feed='auto', **small), HostFeed)
  assert isinstance(make_feed(split, SEEDS, 4, feed='host', **OPTIONS), HostFeed)


def test_examples_that_depend_on_their_batch_are_fed_by_the_host():
  split = SPLITS['collate']
  assert isinstance(make_feed(split, SEEDS, 4, feed='auto', **OPTIONS), HostFeed)
  with pytest.raises(ValueError, match="feed='device' cannot pad"):
    make_feed(split, SEEDS, 4, feed='device', **OPTIONS)


def test_augmented_examples_are_fed_by_the_host():
  plain = SPLITS['plain']
  split = dataclasses.replace(plain, augment=_halved(plain))
  assert isinstance(make_feed(split, SEEDS, 4, feed='auto', **OPTIONS), HostFeed)
  with pytest.raises(ValueError, match="feed='device' cannot augment"):
    make_feed(split, SEEDS, 4, feed='device', **OPTIONS)


def test_augmentation_is_a_function_of_seed_and_step():
  plain = SPLITS['plain']
  split = dataclasses.replace(plain, augment=_halved(plain))
  whole, (early, late) = (
    [*HostFeed(split, SEEDS, BATCH, num_threads=2).calls(calls)]
    for calls in ([(0, 4)], [(0, 2), (2, 2)])
  )
  joined = jax.tree.map(lambda *x: np.concatenate(x, axis=1), early, late)
  jax.tree.map(np.testing.assert_array_equal, whole[0], joined)
  (stored,) = HostFeed(plain, SEEDS, BATCH, num_threads=1).calls([(0, 4)])
  ratio = whole[0]['inputs']['text'] / stored['inputs']['text']
  factors = ratio.reshape(-1, ratio.shape[-1])
  np.testing.assert_allclose(factors, factors[:, :1].repeat(factors.shape[1], 1), 1e-5)
  assert len(np.unique(factors[:, 0].round(6))) == len(factors)  # One draw each.
  np.testing.assert_array_equal(whole[0]['label'], stored['label'])


def _halved(split):
  """Multiplies `text` by a random number."""
  rows = {str(key): row for row, key in enumerate(split.ids)}

  def augment(key, rng):
    one = split.select(np.array([rows[key]]))
    inputs = {**one.inputs, 'text': one.inputs['text'] * np.float32(rng.random())}
    return jax.tree.map(lambda x: x[0], inputs), one.label[0]

  return augment


def test_unknown_feeds_are_refused():
  with pytest.raises(ValueError, match="Unknown feed='disk'"):
    make_feed(SPLITS['plain'], SEEDS, 4, feed='disk', **OPTIONS)


def test_memory_maps_are_read_by_both(tmp_path):
  split = toys.split(13)
  np.save(tmp_path / 'text.npy', split.inputs['text'])
  mapped = np.load(tmp_path / 'text.npy', mmap_mode='r')
  split = dataclasses.replace(split, inputs={'text': mapped})
  (rows,) = DeviceFeed(split, (0,), 4).calls([(0, 1)])
  (batch,) = HostFeed(split, (0,), 4, num_threads=1).calls([(0, 1)])
  assert type(batch['inputs']['text']) is np.ndarray
  data = DeviceFeed(split, (0,), 4).data
  np.testing.assert_array_equal(
    batch['inputs']['text'][0, 0], data['inputs']['text'][rows[0, 0]]
  )
