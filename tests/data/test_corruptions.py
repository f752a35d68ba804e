"""Corruptions: identity at level 0, independence of order, and their statistics."""

import dataclasses

import numpy as np
import pytest

from jdyn.data import corruptions
from jdyn.data.corruptions import CORRUPTIONS, PRESETS, Noise
from jdyn.data.corruptions.presets import find
from jdyn.data.dataset import Split
from jdyn.data.pipeline import nbytes

SIZE, STEPS = 1100, 4  # More rows than are decoded at a time.


def make_split():
  rng = np.random.default_rng(0)
  length = rng.integers(1, STEPS + 1, size=SIZE).astype(np.int32)
  steps = rng.normal(2, [1, 5], size=(SIZE, STEPS, 2)).astype(np.float32)
  steps[np.arange(STEPS) >= length[:, None]] = 0
  inputs = {
    'image': rng.integers(1, 256, size=(SIZE, 3, 5, 2), dtype=np.uint8),
    'series': {'steps': steps, 'length': length},
    'table': rng.normal(3, [1, 2, 3, 4, 5], size=(SIZE, 5)).astype(np.float32),
    'text': np.array(['so it is  said'[: 4 + i % 11] for i in range(SIZE)]),
  }
  return Split(
    inputs,
    label=np.zeros(SIZE, np.int32),
    ids=np.array([f'example {i}' for i in range(SIZE)]),
    decode=lambda inputs: {**inputs, 'image': inputs['image'] / np.float32(255)},
  )


SPLIT = make_split()
KINDS = {'image': 'image', 'series': 'series', 'table': 'features', 'text': 'text'}
REFERENCES = corruptions.measure(SPLIT, tuple(KINDS))
CLEAN = corruptions.corrupt(SPLIT, Noise('missing', 0.0), REFERENCES).inputs
NAMES = (*CORRUPTIONS, *PRESETS)


def fitting(name):
  """The modalities that a corruption or preset can be applied to."""
  return tuple(m for m, kind in KINDS.items() if kind in find(name).kinds)


def level(name, share=0.5):
  """A level with visible effect."""
  return share * min(find(name).max_level, 50.0)


def corrupted(name, level, *, split=SPLIT, modalities=None, seed=0):
  modalities = fitting(name) if modalities is None else modalities
  return corruptions.corrupt(split, Noise(name, level, modalities, seed), REFERENCES)


def exists(inputs):
  return np.arange(STEPS) < inputs['series']['length'][:, None]


def values(inputs, modality):
  value = inputs[modality]
  return value['steps'] if isinstance(value, dict) else value


def assert_same(inputs, others, modality):
  np.testing.assert_array_equal(values(inputs, modality), values(others, modality))


def rows_that_differ(inputs, others, modality):
  differ = values(inputs, modality) != values(others, modality)
  return differ.reshape(SIZE, -1).any(1)


def test_references_are_those_of_existing_entries():
  image = (SPLIT.inputs['image'] / 255).reshape(-1, 2)
  series = SPLIT.inputs['series']['steps'][exists(SPLIT.inputs)]
  for name, x in (('image', image), ('series', series), ('table', CLEAN['table'])):
    reference = REFERENCES[name]
    assert reference.kind == KINDS[name]
    np.testing.assert_allclose(reference.std, x.std(0), rtol=1e-5)
    np.testing.assert_allclose(reference.low, x.min(0), rtol=1e-6)
    np.testing.assert_allclose(reference.high, x.max(0), rtol=1e-6)
  assert REFERENCES['text'].kind == 'text'


class Files:
  """An array that is not in memory."""

  def __init__(self, array):
    self.array, self.shape, self.dtype = array, array.shape, array.dtype
    self.asked = []

  def __len__(self):
    return len(self.array)

  def __getitem__(self, rows):
    self.asked.append(rows)
    return self.array[rows]


@pytest.mark.parametrize('name', ['gaussian', 'severity', 'one_modality', 'dynmm_rgbd'])
def test_what_is_read_from_files_is_corrupted_as_it_is_read(name):
  def decode(inputs):
    return {key: value / np.float32(255) for key, value in inputs.items()}

  arrays = {'a': SPLIT.inputs['image'][:61], 'b': SPLIT.inputs['image'][61:122]}
  split = dataclasses.replace(SPLIT.select(np.arange(61)), inputs=arrays, decode=decode)
  lazy = dataclasses.replace(split, inputs={k: Files(v) for k, v in arrays.items()})
  noise, references = Noise(name, level(name), seed=3), corruptions.measure(lazy, 'ab')
  expected = corruptions.corrupt(split, noise, references)
  got = corruptions.corrupt(lazy, noise, references)
  assert nbytes(got) == nbytes(expected)
  lazy.inputs['a'].asked.clear()
  rows = np.array([60, 3, 3, 17])
  for key in 'ab':
    assert isinstance(expected.inputs[key], np.ndarray)
    np.testing.assert_array_equal(got.inputs[key][rows], expected.inputs[key][rows])
    np.testing.assert_array_equal(np.asarray(got.inputs[key]), expected.inputs[key])
    np.testing.assert_array_equal(got.inputs[key][5], expected.inputs[key][5])
  (first, *_) = lazy.inputs['a'].asked
  assert len(first) <= 3 * find(name).together
  hit = corruptions.touched(lazy, noise, references)
  for key, found in corruptions.touched(split, noise, references).items():
    np.testing.assert_array_equal(hit[key], found)


def test_examples_that_lack_a_modality_neither_count_nor_change():
  here = np.arange(SIZE) % 3 > 0
  table = np.where(here[:, None], SPLIT.inputs['table'], 0)
  split = dataclasses.replace(
    SPLIT, inputs={'table': table, 'present/table': here}, decode=None
  )
  references = corruptions.measure(split, ('table',))
  np.testing.assert_allclose(references['table'].std, table[here].std(0), rtol=1e-5)
  noise = Noise('gaussian', 1.0)
  got = corruptions.corrupt(split, noise, references).inputs
  np.testing.assert_array_equal(got['table'].any(1), here)
  np.testing.assert_array_equal(got['present/table'], here)
  assert corruptions.touched(split, noise, references)['table'].tolist() == [*here]


@pytest.mark.parametrize('name', NAMES)
def test_level_zero_is_the_decoded_split(name):
  got = corrupted(name, 0.0)
  assert got.decode is None
  image = SPLIT.inputs['image'] / np.float32(255)
  np.testing.assert_array_equal(got.inputs['image'], image)
  assert got.inputs['image'].dtype == np.float32
  for key, value in SPLIT.inputs['series'].items():
    np.testing.assert_array_equal(got.inputs['series'][key], value)
  for modality in ('table', 'text'):
    np.testing.assert_array_equal(got.inputs[modality], SPLIT.inputs[modality])


@pytest.mark.parametrize('name', [name for name in NAMES if find(name).together == 1])
def test_an_example_does_not_depend_on_the_others(name):
  rows = np.array([1090, 3, 77, 1023, 1024])
  part = corrupted(name, level(name), split=SPLIT.select(rows)).inputs
  whole = corrupted(name, level(name)).select(rows).inputs
  for modality in KINDS:
    assert_same(part, whole, modality)


@pytest.mark.parametrize('name', NAMES)
def test_only_the_named_modality_and_its_steps_change(name):
  for modality in fitting(name):
    got = corrupted(name, level(name), modalities=(modality,)).inputs
    changed = [m for m in KINDS if rows_that_differ(got, CLEAN, m).any()]
    assert changed == [modality]
    assert values(got, modality).dtype.kind == values(CLEAN, modality).dtype.kind
    np.testing.assert_array_equal(got['series']['steps'][~exists(got)], 0)
    np.testing.assert_array_equal(
      got['series']['length'], SPLIT.inputs['series']['length']
    )


@pytest.mark.parametrize('name', NAMES)
def test_seeds_and_modalities_differ(name):
  for modality in fitting(name):
    renamed = dict.fromkeys('ab', CLEAN[modality])
    split = dataclasses.replace(SPLIT, inputs=renamed, decode=None)
    references = dict.fromkeys('ab', REFERENCES[modality])
    first, second = (
      corruptions.corrupt(split, Noise(name, level(name), seed=seed), references)
      for seed in (0, 1)
    )
    a, b = (values(first.inputs, m) for m in 'ab')
    assert (a != b).any()
    assert (a != values(second.inputs, 'a')).any()


@pytest.mark.parametrize('name', NAMES)
def test_touched_are_those_that_differ(name):
  noise = Noise(name, level(name), fitting(name), seed=5)
  got = corruptions.corrupt(SPLIT, noise, REFERENCES).inputs
  hit = corruptions.touched(SPLIT, noise, REFERENCES)
  assert sorted(hit) == sorted(fitting(name))
  for modality, found in hit.items():
    assert found.dtype == bool
    np.testing.assert_array_equal(found, rows_that_differ(got, CLEAN, modality))
    assert found.any()


@pytest.mark.parametrize('name', NAMES)
def test_a_higher_level_touches_what_a_lower_one_did(name):
  low, high = (
    corruptions.touched(
      SPLIT, Noise(name, level(name, share), fitting(name)), REFERENCES
    )
    for share in (0.4, 0.9)
  )
  for modality, hit in low.items():
    assert not (hit & ~high[modality]).any()


@pytest.mark.parametrize(
  'name', ['drop_steps', 'mask', 'missing', 'salt_pepper', 'swap']
)
def test_a_higher_level_adds_to_a_lower_one(name):
  (modality, *_) = fitting(name)
  low, high = (values(corrupted(name, level).inputs, modality) for level in (0.3, 0.6))
  changed = low != values(CLEAN, modality)
  np.testing.assert_array_equal(low[changed], high[changed])
  assert (high != values(CLEAN, modality)).sum() > 1.5 * changed.sum()


def test_a_higher_level_replaces_further_words():
  low, high = (corrupted('words', level).inputs['text'] for level in (0.3, 0.6))
  for few, many in zip(low, high, strict=True):
    pairs = list(zip(few.split(' '), many.split(' '), strict=True))
    assert all(more == '_' for word, more in pairs if word == '_')
  count = np.char.count
  assert count(high, '_').sum() > 1.5 * count(low, '_').sum()


@pytest.mark.parametrize(
  ('name', 'modality'),
  [('gaussian', 'table'), ('pixel_gaussian', 'image'), ('white_noise', 'series')],
)
def test_a_higher_level_is_more_of_the_same_noise(name, modality):
  clean = values(CLEAN, modality)
  one, two = (values(corrupted(name, e).inputs, modality) - clean for e in (1.0, 2.0))
  inside = one * two != 0  # Of pixels, those that were not clipped.
  if modality == 'image':
    inside &= (clean > 0.1) & (clean < 0.9)
  np.testing.assert_allclose(two[inside], 2 * one[inside], rtol=1e-3, atol=1e-5)


def test_gaussian_noise_has_the_stated_scale_per_feature():
  got = corrupted('gaussian', 0.5).inputs
  noise = (got['series']['steps'] - CLEAN['series']['steps'])[exists(got)]
  np.testing.assert_allclose(noise.std(0), 0.5 * REFERENCES['series'].std, rtol=0.06)
  np.testing.assert_allclose(noise.mean(0) / noise.std(0), 0, atol=0.08)


def test_relative_noise_has_the_scale_of_the_example():
  got = corrupted('relative_gaussian', 0.5).inputs
  for modality in ('image', 'table'):
    clean = CLEAN[modality].reshape(SIZE, -1)
    noise = got[modality].reshape(SIZE, -1) - clean
    unit = noise / np.abs(clean).mean(1, keepdims=True)
    assert unit.std() == pytest.approx(0.5, rel=0.05)
    assert abs(unit.mean()) < 0.02


def test_missing_drops_whole_examples():
  got = corrupted('missing', 0.25).inputs
  image, text = got['image'].reshape(SIZE, -1), got['text']
  gone = (image == 0).all(1)
  assert gone.mean() == pytest.approx(0.25, abs=0.05)
  np.testing.assert_array_equal(image[~gone], CLEAN['image'].reshape(SIZE, -1)[~gone])
  assert (text == '').mean() == pytest.approx(0.25, abs=0.05)
  gone = ~got['series']['steps'].any((1, 2))
  assert gone.mean() == pytest.approx(0.25, abs=0.05)


def test_mask_drops_single_entries():
  image = corrupted('mask', 0.25).inputs['image']
  assert (image == 0).mean() == pytest.approx(0.25, abs=0.02)
  np.testing.assert_array_equal(image[image != 0], CLEAN['image'][image != 0])


def test_drop_steps_drops_all_features_of_a_step():
  got = corrupted('drop_steps', 0.25).inputs
  steps = got['series']['steps'][exists(got)]
  gone = (steps == 0).all(1)
  assert gone.mean() == pytest.approx(0.25, abs=0.03)
  clean = CLEAN['series']['steps'][exists(got)]
  np.testing.assert_array_equal(steps[~gone], clean[~gone])


def test_white_noise_is_one_number_per_step_in_the_units_of_the_data():
  got = corrupted('white_noise', 0.5).inputs
  noise = (got['series']['steps'] - CLEAN['series']['steps'])[exists(got)]
  np.testing.assert_allclose(noise[:, 0], noise[:, 1], atol=1e-5)
  assert noise.std() == pytest.approx(0.5, rel=0.06)
  first, second = got['series']['steps'][:, :2].swapaxes(0, 1)
  both = got['series']['length'] > 1
  assert (first != second)[both].any(1).all()


def test_salt_and_pepper_are_equally_frequent_extremes():
  got = corrupted('salt_pepper', 1.0).inputs
  for modality in ('image', 'table'):
    low, high = REFERENCES[modality].low, REFERENCES[modality].high
    assert ((got[modality] == low) | (got[modality] == high)).all()
    assert (got[modality] == high).mean() == pytest.approx(0.5, abs=0.02)


def test_swap_exchanges_pairs_of_neighbours():
  split = dataclasses.replace(
    SPLIT, inputs={'table': np.tile(np.arange(5.0), (SIZE, 1))}, decode=None
  )
  everyone, some = (
    corrupted('swap', level, split=split).inputs['table'] for level in (1.0, 0.4)
  )
  found, count = np.unique(everyone, axis=0, return_counts=True)
  assert found.tolist() == [[0, 2, 1, 4, 3], [1, 0, 3, 2, 4]]
  assert count.min() / SIZE == pytest.approx(0.5, abs=0.05)
  np.testing.assert_array_equal(np.sort(some, 1), split.inputs['table'])
  assert (some != np.arange(5)).mean() == pytest.approx(0.4 * 4 / 5, abs=0.03)


def test_words_are_the_pieces_between_single_spaces():
  text = corrupted('words', 1.0).inputs['text']
  assert text[10] == '_ _ _ _ _'  # 'so it is  said' has an empty piece.
  assert text[0] == '_ _'
  some = corrupted('words', 0.3).inputs['text']
  pieces = [piece for line in some for piece in line.split(' ')]
  assert pieces.count('_') / len(pieces) == pytest.approx(0.3, abs=0.03)
  assert set(pieces) <= {'_', *(p for line in CLEAN['text'] for p in line.split(' '))}


@pytest.mark.parametrize(
  ('name', 'level', 'modalities', 'message'),
  [
    ('blur', 0.1, ('table',), r"Unknown corruption 'blur'; expected one of \['drop"),
    ('blur', 0.1, ('table',), r"or a preset: \['dynmm_rgbd"),
    ('mask', 1.5, ('table',), r'level=1.5 of .mask. must lie in \[0, 1.0\]'),
    ('gaussian', -1, ('table',), 'level=-1'),
    ('severity', 11, ('text',), r'level=11 of .severity. must lie in \[0, 10.0\]'),
    ('mask', 0.1, ('audio',), r"\['audio'\]; the modalities are \['image'"),
    ('mask', 0.1, ('text',), "'text' is of kind 'text'. Name the modalities"),
    ('words', 0.1, (), r"'words' is for modalities of kind \['text'\], but 'image'"),
    ('qmf_paper_salt', 1, ('series',), "'series' is of kind 'series'"),
  ],
)
def test_wrong_requests_name_the_choices(name, level, modalities, message):
  with pytest.raises(ValueError, match=message):
    corrupted(name, level, modalities=modalities)


@pytest.mark.parametrize(
  'value', [{'ids': np.zeros((2, 3), np.int32)}, np.zeros(2), np.array([{}, {}])]
)
def test_what_is_neither_numbers_nor_text_is_refused(value):
  split = Split({'x': value}, np.zeros(2, np.int32), np.array(['a', 'b']))
  with pytest.raises(ValueError, match="Cannot corrupt 'x': it is neither"):
    corruptions.measure(split, ('x',))


def test_references_must_cover_the_modalities():
  with pytest.raises(ValueError, match="references lacks 'text'"):
    corruptions.corrupt(SPLIT, Noise('missing', 0.1, ('text',)), {})
