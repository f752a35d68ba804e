import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jdyn.layers.dropout import Dropout

KEY = jax.random.key(5)


def _drop(x, rate=0.3, key=KEY, axis_name=None):
  return Dropout(rate, axis_name).apply({}, x, train=True, rngs={'dropout': key})


@pytest.mark.parametrize('rate', [0.1, 0.5])
def test_rate_and_scale(rate):
  y = np.asarray(_drop(jnp.ones((64, 5, 33)), rate))
  kept = y != 0
  np.testing.assert_allclose(y[kept], 1 / (1 - rate), rtol=1e-6)
  # Six standard deviations of a binomial share, of all entries and of each column.
  spread = 6 * (rate * (1 - rate)) ** 0.5
  assert abs(kept.mean() - (1 - rate)) < spread / kept.size**0.5
  assert np.abs(kept.mean((0, 1)) - (1 - rate)).max() < spread / 320**0.5


def test_rows_columns_and_keys_are_independent():
  x = jnp.ones((200, 400))
  kept = np.asarray(_drop(x, 0.5)) != 0
  other = np.asarray(_drop(x, 0.5, jax.random.key(6))) != 0
  # Agreement of two independent fair masks is 1/2; 400 or 200 entries each.
  for a, b in [
    (kept[:-1], kept[1:]),
    (kept[:, :-1], kept[:, 1:]),
    (kept[:, :200], kept[:, 200:]),
    (kept, other),
  ]:
    assert abs((a == b).mean() - 0.5) < 6 * 0.5 / a.size**0.5


def test_evaluation_and_rate_zero_change_nothing():
  x = jnp.arange(6.0).reshape(2, 3)
  np.testing.assert_array_equal(Dropout(0.5).apply({}, x, train=False), x)
  np.testing.assert_array_equal(Dropout(0.0).apply({}, x, train=True), x)


def test_masks_do_not_depend_on_the_devices():
  x = jnp.ones((8, 7))
  mesh = jax.make_mesh(
    (4,), ('data',), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4]
  )
  sharded = jax.shard_map(
    lambda x: _drop(x, axis_name='data'),
    mesh=mesh,
    in_specs=P('data'),
    out_specs=P('data'),
    check_vma=False,
  )
  np.testing.assert_array_equal(jax.jit(sharded)(x), _drop(x))
  assert len(np.unique(_drop(x), axis=0)) == 8


def test_many_seeds_at_once():
  keys = jax.random.split(KEY, 3)
  x = jnp.ones((4, 6))
  many = jax.vmap(lambda key: _drop(x, key=key))(keys)
  np.testing.assert_array_equal(many, [_drop(x, key=key) for key in keys])
