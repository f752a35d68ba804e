"""A loss or gradient that is not finite stops, and says where it comes from."""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import pytest

from jdyn import build
from jdyn.data.order import train_rows
from jdyn.data.pipeline import assemble
from jdyn.training.guard import NonFiniteError, diagnose
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
  assert re.search(r"first bad leaf \['head'\]\['dense_0'\]\['\w+'\]", message)


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
  schedules = stage.make_schedules(3)
  state = init_state(
    jnp.uint32(6),
    assemble(toys.split(BATCH), np.arange(1))['inputs'],
    model=stage.trained,
    tx=stage.make_optimizer(3),
    terms=stage.terms,
    hparams=hparams_at(schedules, jnp.int32(0)),
    num_examples=BATCH,
  )
  return stage, schedules, dataclasses.replace(state, step=jnp.int32(9))


def test_a_bad_parameter_is_named_first():
  stage, schedules, state = _state(toys.unimodal('text'))
  kernel = state.params['head']['dense_0']['kernel']
  state.params['head']['dense_0']['kernel'] = kernel.at[0, 1].set(jnp.inf)
  split = toys.split(BATCH)
  error = diagnose(
    stage, state, assemble(split, np.arange(BATCH)), schedules, split.ids
  )
  assert isinstance(error, FloatingPointError)
  assert 'seed 6, step 9' in str(error)
  assert "first bad leaf ['head']['dense_0']['kernel']" in str(error)


def test_finite_inputs_with_an_infinite_loss_are_named():
  stage, schedules, state = _state(toys.unimodal('text'))
  split = toys.split(BATCH)
  split.inputs['text'][5] = 3e38
  split.inputs['text'][2] = -3e38
  error = diagnose(
    stage, state, assemble(split, np.arange(BATCH)), schedules, split.ids
  )
  named = re.search(r'examples \[([^]]*)\]', str(error)).group(1)
  assert set(named.split(', ')) <= {"'toy/0/002'", "'toy/0/005'"}
  assert named
