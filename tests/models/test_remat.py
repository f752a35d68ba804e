"""Recomputing for the gradient: the same training step, in less memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdyn.encoders.resnet import ResNet
from jdyn.models.esanet import ESANet
from tests.contracts.passes import random_variables

pytestmark = pytest.mark.usefixtures('compile_fast')

# XLA for CPUs drops the barriers that keep the two computations apart, and then merges
# them: there is no memory to be saved there. Keep them, as XLA for accelerators does.
KEPT = {'xla_disable_hlo_passes': 'cse_barrier_expander'}


def _images(size, batch=2):
  return {'rgb': jnp.asarray(np.random.default_rng(0).normal(size=(batch, *size, 3)))}


def _network(widths, blocks, encoder, decoder):
  resnet = ResNet('basic', (blocks,) * 2, widths, remat=encoder)
  options = dict(bins=(), widths=widths[-1:], blocks=(blocks,), remat=decoder)
  return ESANet({'rgb': resnet}, 3, **options)


class _Called:
  """A network as what draws its variables calls it."""

  def __init__(self, network):
    self._network = network

  def init(self, key, x, *, train):
    """The network's variables."""
    return self._network.init(key, x, train=train, hparams={})


def _step(network):
  """The gradient of a loss, and what else a training step computes."""

  def loss(params, variables, images):
    outputs, state = network.apply(
      {**variables, 'params': params},
      images,
      train=True,
      hparams={},
      mutable=['batch_stats'],
    )
    return jnp.sum(jnp.sin(outputs.logits)), (outputs, state)

  return jax.jit(
    lambda variables, images: jax.grad(loss, has_aux=True)(
      variables['params'], variables, images
    )
  )


@functools.cache
def _lowered(encoder, decoder, widths=(4, 5), blocks=1, size=(16, 16)):
  network, images = _network(widths, blocks, encoder, decoder), _images(size)
  variables = random_variables(_Called(network), images)
  return _step(network).lower(variables, images), (variables, images)


def test_a_step_is_the_same():
  (kept, given), (again, same) = _lowered(False, False), _lowered(True, True)
  jax.tree.map(np.testing.assert_array_equal, given, same)  # Places of variables too.
  want, got = kept.compile()(*given), again.compile(KEPT)(*given)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=5e-5), got, want
  )
  statistics = got[1][1]['batch_stats'], given[0]['batch_stats']
  moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), *statistics)
  assert all(jax.tree.leaves(moved))


def test_a_step_takes_less_memory_for_each_part_that_recomputes():
  def memory(encoder, decoder):
    lowered, _ = _lowered(encoder, decoder, (32, 64), 2, (64, 64))
    return lowered.compile(KEPT).memory_analysis().temp_size_in_bytes

  none, encoder, decoder = (
    memory(False, False),
    memory(True, False),
    memory(False, True),
  )
  both = memory(True, True)
  print('BYTES', none, encoder, decoder, both)
  assert both < encoder < none
  assert both < decoder < none
  assert both < 0.7 * none
