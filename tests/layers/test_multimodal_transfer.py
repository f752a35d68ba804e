"""Streams of any number, size and rank gate each other's channels."""

import jax
import numpy as np
import pytest

from jdyn.layers.multimodal_transfer import MultimodalTransfer
from tests.contracts.passes import random_variables

pytestmark = pytest.mark.usefixtures('compile_fast')

SHAPES = {'a': (2, 3, 4, 5), 'b': (2, 6, 3), 'c': (2, 4)}


class _Transfer(MultimodalTransfer):
  """The layer as what draws its variables calls it."""

  def __call__(self, maps, *, train):
    del train
    return super().__call__(maps)


def test_gates_are_of_the_whole_example_and_of_all_streams():
  random = np.random.default_rng(0)
  maps = {
    name: random.uniform(0.5, 1.5, shape).astype(np.float32)
    for name, shape in SHAPES.items()
  }
  transfer = MultimodalTransfer(ratio=5)
  variables = random_variables(_Transfer(ratio=5), maps)
  assert variables['params']['squeeze']['kernel'].shape == (12, 4)  # 24 / 5.
  apply = jax.jit(transfer.apply)
  y = apply(variables, maps)
  for name, shape in SHAPES.items():
    gate = (y[name] / maps[name]).reshape(2, -1, shape[-1])
    np.testing.assert_allclose(
      gate, np.broadcast_to(gate[:, :1], gate.shape), rtol=1e-5
    )
  for changed in SHAPES:
    other = apply(variables, {**maps, changed: 2 * maps[changed]})
    for name in set(SHAPES) - {changed}:
      moved = np.abs(other[name] - y[name]).reshape(2, -1).max(1)
      assert (moved > 1e-6).all(), (changed, name)
