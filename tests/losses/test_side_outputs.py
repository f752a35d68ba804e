"""Losses at coarser scales: means of their own, over all devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jdyn.losses import LOSSES
from jdyn.tasks import TASKS
from jdyn.typing import Outputs

pytestmark = pytest.mark.usefixtures('compile_fast')

CLASSES, SIZE, BATCH = 3, 16, 4
WEIGHTS = (0.25, 1.0, 2.0)
TASK = TASKS['segmentation'](CLASSES, WEIGHTS)


def _data(seed=0):
  rng = np.random.default_rng(seed)
  label = rng.integers(CLASSES + 1, size=(BATCH, SIZE, SIZE)).astype(np.uint8)
  aux = {
    f'down_{k}': rng.normal(size=(BATCH, SIZE // k, SIZE // k, CLASSES)) for k in (4, 8)
  }
  aux = {name: jnp.asarray(x, jnp.float32) for name, x in aux.items()}
  mask = np.array([1, 1, 1, 0], np.float32)
  batch = {'label': jnp.asarray(label), 'mask': jnp.asarray(mask)}
  return Outputs(jnp.zeros((BATCH, SIZE, SIZE, CLASSES)), aux=aux), batch


def _by_hand(outputs, batch):
  """A loop over the pixels that count."""
  total = 0.0
  for name, logits in outputs.aux.items():
    scale = int(name.split('_')[1])
    losses, weights = 0.0, 0.0
    for image in np.flatnonzero(batch['mask']):
      for i, j in np.ndindex(*logits.shape[1:3]):
        truth = int(batch['label'][image, i * scale, j * scale]) - 1
        if truth >= 0:
          row = np.asarray(logits[image, i, j], np.float64)
          losses += WEIGHTS[truth] * (np.log(np.exp(row).sum()) - row[truth])
          weights += WEIGHTS[truth]
    total += losses / weights
  return total


def _apply(outputs, batch, axis_name=None):
  term = LOSSES['side_outputs'](TASK)
  mean, memory = term.apply(outputs, batch, {}, term.init(BATCH), axis_name)
  assert memory == ()
  return mean


def test_every_scale_is_a_mean_of_its_own():
  outputs, batch = _data()
  mean = jax.jit(_apply)(outputs, batch)
  np.testing.assert_allclose(mean.compute(), _by_hand(outputs, batch), rtol=1e-5)


def test_devices_add_up():
  """Images with more void than others, and one of padding, lie on different ones."""
  outputs, batch = _data()
  batch['label'] = batch['label'].at[1, :, 3:].set(0)
  devices = jax.devices()[:BATCH]
  mesh = jax.make_mesh(
    (BATCH,), ('data',), axis_types=(jax.sharding.AxisType.Auto,), devices=devices
  )

  def share(outputs, batch):
    mean = _apply(outputs, batch, 'data')
    return jax.lax.psum((mean.total, mean.count), 'data')

  split = jax.shard_map(
    share, mesh=mesh, in_specs=(P('data'),) * 2, out_specs=P(), check_vma=False
  )
  total, count = jax.jit(split)(outputs, batch)
  np.testing.assert_allclose(count, 1, rtol=1e-6)
  np.testing.assert_allclose(total, _by_hand(outputs, batch), rtol=1e-5)


def test_a_batch_that_is_all_void_has_no_loss():
  outputs, batch = _data()
  batch['label'] *= 0
  assert _apply(outputs, batch).compute() == 0


def test_a_model_without_is_refused_and_evaluation_has_none():
  outputs, batch = _data()
  with pytest.raises(ValueError, match=r'set loss\.side_outputs=0'):
    _apply(Outputs(outputs.logits), batch)
  assert not LOSSES['side_outputs'](TASK).in_evaluation
