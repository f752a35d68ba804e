"""Presets beside the published procedures, written out, and what ours promises."""

import numpy as np
import pytest

from jdyn.data import corruptions
from jdyn.data.corruptions import Noise, Reference
from jdyn.data.corruptions.gaussian import PixelGaussian, WhiteNoise
from jdyn.data.corruptions.swap import Swap
from jdyn.data.dataset import Split

SIZE = 600
MEAN, STD = np.float32([0.5, 0.4, 0.3]), np.float32([0.1, 0.2, 0.4])
"""Per channel, subtracted and divided by when images are decoded."""


def decode(inputs):
  return {**inputs, 'image': (inputs['image'] / np.float32(255) - MEAN) / STD}


def pixels(split):
  """Decoded images as pixel values, whole numbers where nothing was added."""
  return 255 * (split.inputs['image'] * STD + MEAN)


def make_split(images):
  size = len(images)
  inputs = {
    'image': images,
    'series': {
      'steps': np.ones((size, 3, 2), np.float32),
      'length': np.full(size, 3, np.int32),
    },
    'table': np.random.default_rng(1).normal(0, [1, 9], (size, 2)).astype(np.float32),
    'text': np.array(['a few  words'] * size),
  }
  ids = np.arange(size).astype(str)
  return Split(inputs, np.zeros(size, np.int32), ids, decode=decode)


IMAGES = np.random.default_rng(0).integers(0, 256, (SIZE, 6, 7, 3), dtype=np.uint8)
IMAGES[0, 0, 0], IMAGES[0, 0, 1] = 0, 255
SPLIT = make_split(IMAGES)
REFERENCES = corruptions.measure(SPLIT, ('image', 'series', 'table', 'text'))


def corrupted(name, level, *modalities, split=SPLIT):
  return corruptions.corrupt(split, Noise(name, level, modalities), REFERENCES)


def touched(name, level, *modalities):
  return corruptions.touched(SPLIT, Noise(name, level, modalities), REFERENCES)


def published_gaussian(image, std):
  """QMF's image noise: one plane from seed 0, clipped above, cast to uint8."""
  height, width, channels = image.shape
  np.random.seed(0)
  noise = std * np.random.normal(loc=0.0, scale=1.0, size=(height, width, 1))
  noisy = np.repeat(noise, channels, axis=2) + image
  noisy[noisy > 255] = 255
  # Through a wider integer, since the cast of negative floats is undefined.
  return noisy.astype(np.int64).astype(np.uint8)


@pytest.mark.parametrize(
  ('name', 'level', 'std'),
  [
    ('qmf_paper_gaussian', 5, 50),
    ('qmf_paper_gaussian', 10, 100),
    ('qmf_rgbd_gaussian', 5, 5),
    ('qmf_rgbd_gaussian', 50, 50),
  ],
)
def test_qmf_gaussian_is_the_published_one_on_half_of_the_images(name, level, std):
  got = pixels(corrupted(name, level, 'image'))
  hit = touched(name, level, 'image')['image']
  assert hit.mean() == pytest.approx(0.5, abs=0.06)
  for image, result, is_hit in zip(IMAGES, got, hit, strict=True):
    expected = published_gaussian(image, std) if is_hit else image
    np.testing.assert_allclose(result, expected, atol=0.01)


def test_dark_images_become_bright_where_negatives_wrap():
  split = make_split(np.full((40, 224, 224, 3), 20, np.uint8))
  got = pixels(corrupted('qmf_paper_gaussian', 5, 'image', split=split))
  noisy = got[np.abs(got - 20).max((1, 2, 3)) > 1]
  assert 10 < len(noisy) < 30
  assert noisy.mean() == pytest.approx(105.5, abs=0.5)
  assert (noisy > 200).mean() == pytest.approx(0.27, abs=0.01)
  sane = pixels(corrupted('severity', 5, 'image', split=split))
  noisy = sane[np.abs(sane - 20).max((1, 2, 3)) > 1]
  assert (noisy > 200).mean() < 0.001


@pytest.mark.parametrize('grey', [False, True])
@pytest.mark.parametrize('shared', [False, True])
def test_options_of_pixel_noise(grey, shared):
  noise = PixelGaussian(grey=grey, shared_pattern=shared)
  reference = Reference('image', np.ones(3), np.zeros(3), np.full(3, 255.0))
  image = np.full((30, 30, 3), 128, np.float32)
  first, second = (
    noise(image, 10.0, np.random.default_rng(seed), reference) - image
    for seed in (0, 1)
  )
  assert (first == second).all() == shared
  assert (first == first[..., :1]).all() == grey
  assert first.std() == pytest.approx(10, rel=0.1)
  extreme = noise(image, 1000.0, np.random.default_rng(0), reference)
  assert (extreme.min(), extreme.max()) == (0, 255)


@pytest.mark.parametrize('cls', [PixelGaussian, Swap])
def test_unknown_options_name_the_choices(cls):
  option = 'clip' if cls is PixelGaussian else 'mode'
  with pytest.raises(ValueError, match=f"Unknown {option} 'none'; expected one of"):
    cls(**{option: 'none'})


@pytest.mark.parametrize(
  ('name', 'level', 'share'),
  [
    ('qmf_paper_salt', 10, 0.5),
    ('qmf_paper_salt', 5, 0.25),
    ('qmf_head_salt', 10, 0.05),
  ],
)
def test_the_severity_of_qmf_salt_is_how_many_images_get_a_tenth(name, level, share):
  hit = touched(name, level, 'image')['image']
  assert hit.mean() == pytest.approx(share, abs=0.05)
  got = pixels(corrupted(name, level, 'image'))[hit]
  differs = np.abs(got - IMAGES[hit]).max(-1) > 0.5
  assert differs.mean() == pytest.approx(0.1, abs=0.02)
  changed = got[differs]
  assert (np.abs(changed - changed[:, :1]) < 0.01).all()  # All channels alike.
  salt = np.abs(changed[:, 0] - 255) < 0.01
  assert (salt | (np.abs(changed[:, 0]) < 0.01)).all()
  assert salt.mean() == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize(
  'name', ['severity', 'qmf_paper_gaussian', 'qmf_paper_salt', 'qmf_head_salt']
)
def test_at_severity_10_half_of_the_texts_lose_all_words(name):
  text = corrupted(name, 10, 'text').inputs['text']
  assert set(text) == {'a few  words', '_ _ _ _'}
  assert (text == '_ _ _ _').mean() == pytest.approx(0.5, abs=0.06)
  pieces = ' '.join(corrupted(name, 5, 'text').inputs['text']).split(' ')
  assert pieces.count('_') / len(pieces) == pytest.approx(0.25, abs=0.04)
  with pytest.raises(ValueError, match=r'level=10\.5'):
    corrupted(name, 10.5, 'text')


@pytest.mark.parametrize('level', [0.1, 5, 10])
def test_severity_touches_a_quarter_twice_and_a_quarter_not_at_all(level):
  hit = touched('severity', level, 'image', 'series', 'table')
  names = ('image', 'table')
  for first in (False, True):
    for second in (False, True):
      both = (hit[names[0]] == first) & (hit[names[1]] == second)
      assert both.mean() == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize('level', [5, 10])
def test_severity_adds_a_fifth_of_the_standard_deviation(level):
  clean = SPLIT.inputs['table']
  got = corrupted('severity', level, 'table').inputs['table']
  hit = touched('severity', level, 'table')['table']
  noise = (got - clean)[hit]
  np.testing.assert_allclose(noise.std(0), level / 5 * clean.std(0), rtol=0.12)
  image = pixels(corrupted('severity', level, 'image'))
  inside = (image > 1) & (image < 254)
  noise = (image - IMAGES)[inside & (np.abs(image - IMAGES) > 0.01)]
  quantile = np.random.default_rng(0).normal(IMAGES, 10 * level)
  quantile = (quantile - IMAGES)[(quantile > 1) & (quantile < 254)]
  assert noise.std() == pytest.approx(quantile.std(), rel=0.05)


def _pairs(size):
  """A split of two modalities of decoded images."""
  x = np.random.default_rng(2).normal(0, 1, (size, 6, 7, 2)).astype(np.float32)
  x *= 1 + np.arange(size)[:, None, None, None] % 5
  inputs = {'rgb': x, 'depth': 10 * x[..., :1]}
  return Split(inputs, np.zeros(size, np.int32), np.arange(size).astype(str))


def _noisy(split, name, level, *modalities):
  references = corruptions.measure(split, tuple(split.inputs))
  noise = Noise(name, level, modalities, seed=4)
  return (
    corruptions.corrupt(split, noise, references).inputs,
    corruptions.touched(split, noise, references),
  )


def test_one_modality_of_two_thirds_of_the_examples_is_noisy():
  split, level = _pairs(SIZE), 0.7
  got, hit = _noisy(split, 'one_modality', level)
  assert not (hit['rgb'] & hit['depth']).any()
  for name, found in hit.items():
    assert found.mean() == pytest.approx(1 / 3, abs=0.05)
    clean = split.inputs[name].reshape(SIZE, -1)
    noise = (got[name].reshape(SIZE, -1) - clean)[found]
    std = level * np.abs(clean[found]).mean(1)
    assert (noise / std[:, None]).std() == pytest.approx(1, abs=0.03)
    # Asked for alone, the same examples of it are noisy.
    _, alone = _noisy(split, 'one_modality', level, name)
    assert list(alone) == [name]
    np.testing.assert_array_equal(alone[name], found)


def test_dynmm_decides_and_measures_by_batches_of_eight():
  split, level = _pairs(SIZE + 3), 0.7
  got, hit = _noisy(split, 'dynmm_rgbd', level)
  assert not (hit['rgb'] & hit['depth']).any()
  batches = [np.arange(start, min(start + 8, len(split))) for start in range(0, 603, 8)]
  units = []
  for name, found in hit.items():
    for rows in batches:
      assert found[rows].all() or not found[rows].any()
      if found[rows[0]]:
        clean = split.inputs[name][rows]
        units.append((got[name][rows] - clean) / (level * np.abs(clean).mean()))
    assert found.mean() == pytest.approx(1 / 3, abs=0.14)  # Of only 76 batches.
  units = np.concatenate([unit.reshape(-1) for unit in units])
  assert units.std() == pytest.approx(1, abs=0.02)
  # Not by examples, whose sizes differ by a factor of five.
  spread = [np.abs(split.inputs['rgb'][rows]).mean((1, 2, 3)) for rows in batches[:-1]]
  assert np.std(spread) > 0.5
  places = np.arange(4, len(split))
  _, moved = _noisy(split.select(places), 'dynmm_rgbd', level)
  assert (moved['rgb'] != hit['rgb'][places]).any()


def test_swap_of_multibench_copies():
  """Beside its loop, which is meant to swap and does not."""
  x, level = np.arange(200, dtype=np.float32), 0.6
  expected, chance = x.copy(), np.random.default_rng(3).random(199)
  for j in range(1, 200):
    if chance[j - 1] < level:
      expected[j] = expected[j - 1]
      expected[j - 1] = expected[j]
  got = Swap(mode='repo_copy')(x, level, np.random.default_rng(3), None)
  np.testing.assert_array_equal(got, expected)
  assert len(set(got)) < 120


@pytest.mark.parametrize('whole', [False, True])
def test_white_noise_of_multibench(whole):
  """Beside its loop, whose steps are examples where it is given one axis more."""
  x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
  data, rng = (
    x[None, None].copy() if whole else x[None].copy(),
    np.random.default_rng(3),
  )
  for i in range(len(data)):
    for time in range(len(data[i])):
      data[i][time] += np.float32(0.7) * rng.standard_normal(dtype=np.float32)
  got = WhiteNoise(whole)(x, 0.7, np.random.default_rng(3), None)
  np.testing.assert_allclose(got, data.reshape(4, 3), rtol=1e-6)


def test_multibench_timeseries_does_all_three():
  level = 0.2
  got = corrupted('multibench_timeseries', level, 'series').inputs['series']['steps']
  lost = (got == 0).all(-1)
  # Both features of a step can also be dropped one by one.
  expected = level + (1 - level) * level**2
  assert lost.mean() == pytest.approx(expected, abs=0.03)
  assert (got == 0).mean() == pytest.approx(1 - (1 - level) ** 2, abs=0.03)
  assert got[got != 0].std() == pytest.approx(level, rel=0.1)
  assert got[got != 0].mean() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(('name', 'zeros'), [('affect', 0.2), ('mimic', 0.36)])
def test_multibench_readers_take_examples_for_steps(name, zeros):
  got = corrupted(f'multibench_{name}', 0.2, 'series').inputs['series']['steps']
  assert (got == 0).mean() == pytest.approx(zeros, abs=0.04)
  assert (got == 0).all((1, 2)).mean() == pytest.approx(0.2, abs=0.05)
  for steps in got:
    assert len(set(steps[steps != 0])) <= 1  # All were 1 and got the same number.


@pytest.mark.parametrize('name', ['multibench_tabular', 'multibench_mimic'])
def test_multibench_tabular_drops_then_copies(name):
  level = 0.3
  got = corrupted(name, level, 'table').inputs['table']
  clean = SPLIT.inputs['table']
  assert (got[:, 0] == 0).mean() == pytest.approx(level, abs=0.06)
  np.testing.assert_array_equal(got[:, 0][got[:, 0] != 0], clean[:, 0][got[:, 0] != 0])
  copied = got[:, 1] == got[:, 0]
  assert copied.mean() == pytest.approx(level + (1 - level) * level**2, abs=0.06)
