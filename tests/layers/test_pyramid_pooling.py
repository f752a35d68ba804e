"""How many cells the grids of pyramid pooling have."""

import jax
import jax.numpy as jnp
import pytest

from jdyn.layers.pyramid_pooling import PyramidPooling


@pytest.mark.parametrize(
  ('size', 'cells'), [((4, 6), (1, 1)), ((8, 12), (2, 2)), ((10, 15), (3, 3))]
)
def test_grids_grow_with_the_map_and_halves_round_up(size, cells):
  module = PyramidPooling(3, (1, 2), trained_size=(4, 6))
  x = jnp.zeros((1, *size, 4))
  _, state = jax.eval_shape(
    lambda: module.init_with_output(
      jax.random.key(0), x, train=False, capture_intermediates=True
    )
  )
  for i, scale in enumerate((1, 2)):
    (pooled,) = state['intermediates'][f'bin_{i}']['__call__']
    assert pooled.shape[1:3] == (scale * cells[0], scale * cells[1])
