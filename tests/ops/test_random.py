"""Keys by name and by row of the global batch."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jdyn.ops.random import named_keys, row_keys

KEY = jax.random.key(7)
ROWS = 8


def _data(keys):
  return np.asarray(jax.random.key_data(keys))


def test_a_named_key_depends_on_its_name_alone():
  both = named_keys(KEY, ('gate', 'dropout'))
  alone = named_keys(KEY, ('dropout',))
  np.testing.assert_array_equal(_data(both['dropout']), _data(alone['dropout']))
  assert (_data(both['dropout']) != _data(both['gate'])).any()


def test_rows_differ_and_do_not_depend_on_the_size_of_the_batch():
  keys = _data(row_keys(KEY, ROWS))
  assert len({tuple(key) for key in keys}) == ROWS
  np.testing.assert_array_equal(_data(row_keys(KEY, 3)), keys[:3])


@pytest.mark.parametrize('devices', [2, 4])
def test_rows_of_many_devices_are_those_of_one(devices):
  mesh = jax.make_mesh(
    (devices,),
    ('data',),
    axis_types=(jax.sharding.AxisType.Auto,),
    devices=jax.devices()[:devices],
  )

  def local():
    return jax.random.key_data(row_keys(KEY, ROWS // devices, 'data'))

  sharded = jax.shard_map(
    local, mesh=mesh, in_specs=(), out_specs=P('data'), check_vma=False
  )
  np.testing.assert_array_equal(jax.jit(sharded)(), _data(row_keys(KEY, ROWS)))
