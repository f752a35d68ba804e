"""Corruptions: identity at level 0, independence of order, and their statistics."""

import dataclasses

import numpy as np
import pytest

from jdyn.data import corruptions
from jdyn.data.corruptions import CORRUPTIONS
from jdyn.data.dataset import Split

SIZE, STEPS = 1500, 4  # More rows than are decoded at a time.


def make_split():
  rng = np.random.default_rng(0)
  length = rng.integers(1, STEPS + 1, size=SIZE).astype(np.int32)
  steps = rng.normal(2, [1, 5], size=(SIZE, STEPS, 2)).astype(np.float32)
  steps[np.arange(STEPS) >= length[:, None]] = 0
  inputs = {
    'image': rng.integers(1, 256, size=(SIZE, 3, 5, 1), dtype=np.uint8),
    'text': {'steps': steps, 'length': length},
  }
  return Split(
    inputs,
    label=np.zeros(SIZE, np.int32),
    ids=np.array([f'example {i}' for i in range(SIZE)]),
    decode=lambda inputs: {**inputs, 'image': inputs['image'] / np.float32(255)},
  )


SPLIT = make_split()
NAMES = ('image', 'text')
REFERENCES = corruptions.measure(SPLIT, NAMES)
CLEAN = corruptions.corrupt(SPLIT, 'mask', 0.0, (), 0, REFERENCES).inputs


def corrupted(name, level, *, split=SPLIT, modalities=NAMES, seed=0):
  return corruptions.corrupt(split, name, level, modalities, seed, REFERENCES)


def exists(inputs):
  return np.arange(STEPS) < inputs['text']['length'][:, None]


def test_references_are_those_of_existing_entries():
  image = SPLIT.inputs['image'] / 255
  assert REFERENCES['image'].std == pytest.approx([image.std()], rel=1e-5)
  assert REFERENCES['image'].low == pytest.approx(image.min())
  assert REFERENCES['image'].high == pytest.approx(image.max())
  text = SPLIT.inputs['text']['steps'][exists(SPLIT.inputs)]
  np.testing.assert_allclose(REFERENCES['text'].std, text.std(0), rtol=1e-5)
  assert REFERENCES['text'].low == pytest.approx(text.min())


@pytest.mark.parametrize('name', CORRUPTIONS)
def test_level_zero_is_the_decoded_split(name):
  got = corrupted(name, 0.0)
  assert got.decode is None
  image = SPLIT.inputs['image'] / np.float32(255)
  np.testing.assert_array_equal(got.inputs['image'], image)
  assert got.inputs['image'].dtype == np.float32
  for key, value in SPLIT.inputs['text'].items():
    np.testing.assert_array_equal(got.inputs['text'][key], value)


@pytest.mark.parametrize('name', CORRUPTIONS)
def test_an_example_does_not_depend_on_the_others(name):
  rows = np.array([1400, 3, 77, 1023, 1024])
  part = corrupted(name, 0.5, split=SPLIT.select(rows)).inputs
  whole = corrupted(name, 0.5).select(rows).inputs
  np.testing.assert_array_equal(part['image'], whole['image'])
  np.testing.assert_array_equal(part['text']['steps'], whole['text']['steps'])


@pytest.mark.parametrize('name', CORRUPTIONS)
def test_seeds_and_modalities_differ(name):
  renamed = {'a': SPLIT.inputs['image'], 'b': SPLIT.inputs['image']}
  split = dataclasses.replace(SPLIT, inputs=renamed, decode=None)
  references = dict.fromkeys('ab', REFERENCES['image'])
  first, second = (
    corruptions.corrupt(split, name, 0.5, ('a', 'b'), seed, references).inputs
    for seed in (0, 1)
  )
  assert (first['a'] != first['b']).any()
  assert (first['a'] != second['a']).any()


@pytest.mark.parametrize('name', CORRUPTIONS)
def test_only_the_named_modality_and_its_steps_change(name):
  got = corrupted(name, 0.7, modalities=('text',)).inputs
  np.testing.assert_array_equal(got['image'], CLEAN['image'])
  steps = got['text']['steps']
  assert (steps[exists(got)] != SPLIT.inputs['text']['steps'][exists(got)]).any()
  np.testing.assert_array_equal(steps[~exists(got)], 0)
  np.testing.assert_array_equal(got['text']['length'], SPLIT.inputs['text']['length'])


@pytest.mark.parametrize('name', ['mask', 'missing', 'salt_pepper'])
def test_a_higher_level_adds_to_a_lower_one(name):
  low, high = (corrupted(name, level).inputs['image'] for level in (0.3, 0.6))
  changed = low != CLEAN['image']
  np.testing.assert_array_equal(low[changed], high[changed])
  assert (high != CLEAN['image']).sum() > 1.5 * changed.sum()


def test_gaussian_noise_has_the_stated_scale_per_feature():
  got = corrupted('gaussian', 0.5).inputs
  noise = (got['text']['steps'] - CLEAN['text']['steps'])[exists(got)]
  np.testing.assert_allclose(noise.std(0), 0.5 * REFERENCES['text'].std, rtol=0.05)
  np.testing.assert_allclose(noise.mean(0) / noise.std(0), 0, atol=0.08)


def test_missing_drops_whole_examples():
  image = corrupted('missing', 0.25).inputs['image'].reshape(SIZE, -1)
  gone = (image == 0).all(1)
  assert gone.mean() == pytest.approx(0.25, abs=0.05)
  np.testing.assert_array_equal(image[~gone], CLEAN['image'].reshape(SIZE, -1)[~gone])


def test_mask_drops_single_entries():
  image = corrupted('mask', 0.25).inputs['image']
  assert (image == 0).mean() == pytest.approx(0.25, abs=0.02)
  np.testing.assert_array_equal(image[image != 0], CLEAN['image'][image != 0])


def test_salt_and_pepper_are_equally_frequent_extremes():
  image = corrupted('salt_pepper', 1.0).inputs['image']
  reference = REFERENCES['image']
  assert set(np.unique(image)) == {
    np.float32(reference.low),
    np.float32(reference.high),
  }
  assert (image == image.max()).mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
  ('name', 'level', 'modalities', 'message'),
  [
    ('blur', 0.1, NAMES, r"Unknown corruption 'blur'; expected one of \['gauss"),
    ('mask', 1.5, NAMES, r'level=1.5 of .mask. must lie in \[0, 1.0\]'),
    ('gaussian', -1, NAMES, 'level=-1'),
    ('mask', 0.1, ('audio',), r"\['audio'\]; the modalities are \['image'"),
  ],
)
def test_wrong_requests_name_the_choices(name, level, modalities, message):
  with pytest.raises(ValueError, match=message):
    corrupted(name, level, modalities=modalities)
