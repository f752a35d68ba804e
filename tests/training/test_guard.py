"""A loss or gradient that is not finite stops, and says where it comes from."""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import pytest

from jdyn import build
from jdyn.data.order import train_rows
from jdyn.data.pipeline import assemble
from jdyn.training.guard import Diagnosis, NonFiniteError
from jdyn.training.programs import hparams_at
from jdyn.training.state import init_state
from tests import toys

BATCH, BAD_ROW = 8, 17


def _poisoned(dataset):
  """The dataset with one training example that has a pixel which is no number."""
  train = dataset.splits['train']
  image = train.inputs['image'].copy()
  image[BAD_ROW, 1, 2] = np.nan
  train = dataclasses.replace(train, inputs={**train.inputs, 'image': image})
  return dataclasses.replace(dataset, splits={**dataset.splits, 'train': train})


def _first_step(seed, size):
  rows = train_rows(seed, size, BATCH, 0, 20)
  return int(np.flatnonzero((rows == BAD_ROW).any(axis=1))[0])


def test_training_stops_at_the_step_and_names_the_example(train):
  """Of two seeds, the second is the first to come to the bad example."""
  dataset = _poisoned(toys.dataset())
  size = len(dataset.splits['train'])
  first = next(
    seed
    for seed in range(100)
    if 0 < _first_step(seed + 1, size) < _first_step(seed, size)
  )
  config = toys.config(
    toys.unimodal('image'), seed=first, num_seeds=2, steps_per_call=1
  )
  with pytest.raises(NonFiniteError) as error:
    train(config, dataset=dataset)
  message = str(error.value)
  assert "stage 'main'" in message
  assert f'seed {first + 1}, step {_first_step(first + 1, size)}:' in message
  assert f"['toy/0/{BAD_ROW:03}']" in message
  assert re.search(r"first bad leaf gradient\['head'\]\['dense_0'\]\['\w+'\]", message)


def test_the_state_before_the_bad_step_is_kept(train):
  """Once the example is repaired, the same command trains as if nothing had been."""
  healthy = toys.dataset()
  step = _first_step(4, len(healthy.splits['train']))
  config = toys.config(
    toys.unimodal('image'), seed=4, steps_per_call=1, checkpoint_seconds=0.0
  )
  with pytest.raises(NonFiniteError):
    train(config, 'repaired', _poisoned(healthy))
  folders = {
    name: train(config, name, healthy) / 'stages' / 'main'
    for name in ('repaired', 'unharmed')
  }
  for name in ('metrics.jsonl', 'result.json'):
    got, want = ((folder / name).read_bytes() for folder in folders.values())
    assert got == want
  assert step > 1


def _state(model):
  stage = build.stage(toys.config(model), toys.SPEC)
  state = init_state(
    jnp.uint32(6),
    assemble(toys.split(BATCH), np.arange(1))['inputs'],
    model=stage.trained,
    tx=stage.make_optimizer(3),
    terms=stage.terms,
    hparams=hparams_at(stage.make_schedules(3), jnp.int32(0)),
    num_examples=BATCH,
  )
  return stage, dataclasses.replace(state, step=jnp.int32(9))


def _diagnose(stage, state, split):
  batch = assemble(split, np.arange(BATCH))
  return Diagnosis(stage, 3, split.ids)(state, batch)


@pytest.mark.parametrize(
  ('spoil', 'leaf'),
  [
    (lambda s: s.params['head']['dense_0'], "params['head']['dense_0']['kernel']"),
    (
      lambda s: s.opt_state[1][0].nu['head']['dense_0'],
      "opt_state[1][0].nu['head']['dense_0']['kernel']",
    ),
  ],
)
def test_a_bad_leaf_of_the_state_is_named_first(spoil, leaf):
  stage, state = _state(toys.unimodal('text'))
  dense = spoil(state)
  dense['kernel'] = dense['kernel'].at[0, 1].set(jnp.inf)
  message = _diagnose(stage, state, toys.split(BATCH))
  assert 'seed 6, step 9: ' in message
  assert f'first bad leaf {leaf}, examples all finite.' in message


def test_finite_inputs_with_an_infinite_loss_are_named():
  stage, state = _state(toys.unimodal('text'))
  split = toys.split(BATCH)
  split.inputs['text'][5] = 3e38
  split.inputs['text'][2] = -3e38
  message = _diagnose(stage, state, split)
  named = re.search(r'examples \[([^]]*)\]', message).group(1)
  assert set(named.split(', ')) <= {"'toy/0/002'", "'toy/0/005'"}
  assert named


def test_a_gradient_that_overflows_only_in_its_norm_is_said_to():
  stage, state = _state(toys.unimodal('text'))
  split = toys.split(BATCH)
  split.inputs['text'][:] = 1e25
  split.inputs['text'][:, 0] = -1e25
  dense = state.params['head']['dense_0']
  dense['kernel'] = jnp.zeros_like(dense['kernel'])
  assert "the gradient's norm overflows, examples all" in _diagnose(stage, state, split)


def test_what_does_not_happen_again_is_said_to():
  stage, state = _state(toys.unimodal('text'))
  message = _diagnose(stage, state, toys.split(BATCH))
  assert 'none when computed again' in message
