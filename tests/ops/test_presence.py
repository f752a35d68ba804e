"""Losing modalities: how many, whose, and the same on any number of devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jdyn.ops.presence import blank, is_mask, lose, present_key

NAMES = ('audio', 'image', 'text')
RATE, KEY = 0.4, jax.random.key(5)


def _inputs(rows):
  return {
    'audio': {'steps': jnp.ones((rows, 3, 2)), 'length': jnp.full(rows, 2)},
    'image': jnp.ones((rows, 2, 2), jnp.uint8),
    'text': jnp.ones((rows, 4), jnp.bfloat16),
  }


_lose = jax.jit(functools.partial(lose, modalities=NAMES, rate=RATE, key=KEY))


def _masks(inputs):
  return np.stack([inputs[present_key(name)] for name in NAMES], axis=1)


def test_each_is_lost_at_the_rate_and_one_is_kept():
  rows = 8192
  lost = _lose(_inputs(rows))
  kept = _masks(lost)
  assert kept.any(axis=1).all()
  # What would be nothing at all keeps one of three, each as often as another.
  want = 1 - RATE + RATE**3 / 3
  error = 4 * (want * (1 - want) / rows) ** 0.5
  np.testing.assert_allclose(kept.mean(axis=0), want, atol=error)
  both = (kept[:, 0] & kept[:, 1]).mean()
  np.testing.assert_allclose(both, (1 - RATE) ** 2, atol=error)
  for name, present in zip(NAMES, kept.T, strict=True):
    before = _inputs(rows)[name]
    if name == 'audio':
      np.testing.assert_array_equal(lost[name]['length'], before['length'])
      before, after = before['steps'], lost[name]['steps']
    else:
      after = lost[name]
    assert after.dtype == before.dtype
    mask = present.reshape(-1, *[1] * (after.ndim - 1))
    np.testing.assert_array_equal(after, np.broadcast_to(mask, after.shape))


def test_what_an_example_lacks_stays_lacking_and_what_it_alone_has_is_kept():
  rows = 512
  had = np.random.default_rng(0).random((rows, 3)) < 0.5
  masks = {present_key(name): had[:, k] for k, name in enumerate(NAMES)}
  kept = _masks(_lose({**_inputs(rows), **masks}))
  assert not (kept & ~had).any()
  np.testing.assert_array_equal(kept.any(axis=1), had.any(axis=1))
  assert (kept.sum(axis=1) < had.sum(axis=1)).any()


def test_only_the_named_are_lost_and_at_rate_0_none():
  inputs = {**_inputs(16), present_key('audio'): jnp.arange(16) < 3}
  lost = lose(inputs, ['text', 'image'], 0.9, KEY)
  assert set(lost) == {*inputs, present_key('text'), present_key('image')}
  np.testing.assert_array_equal(lost[present_key('audio')], np.arange(16) < 3)
  np.testing.assert_array_equal(lost['audio']['steps'], inputs['audio']['steps'])
  assert not lost[present_key('text')].all()
  assert _masks(lose(_inputs(16), NAMES, 0.0, KEY)).all()


@pytest.mark.parametrize('devices', [2, 4])
def test_the_same_examples_lose_the_same_on_many_devices(devices):
  mesh = jax.make_mesh(
    (devices,),
    ('data',),
    axis_types=(jax.sharding.AxisType.Auto,),
    devices=jax.devices()[:devices],
  )
  local = functools.partial(
    lose, modalities=NAMES, rate=RATE, key=KEY, axis_name='data'
  )
  sharded = jax.shard_map(
    local, mesh=mesh, in_specs=P('data'), out_specs=P('data'), check_vma=False
  )
  jax.tree.map(
    np.testing.assert_array_equal, jax.jit(sharded)(_inputs(16)), _lose(_inputs(16))
  )


def test_names_of_masks():
  assert is_mask(present_key('text'))
  assert not is_mask('text')


def test_blank_keeps_the_type():
  x = jnp.full((2, 3), 7, jnp.uint8)
  got = blank(x, jnp.array([True, False]))
  assert got.dtype == x.dtype
  np.testing.assert_array_equal(got, [[7] * 3, [0] * 3])
