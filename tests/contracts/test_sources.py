"""What every source in the table promises. A new one is tested by being listed."""

import dataclasses
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from jdyn.data.dataset import DataError
from jdyn.data.load import load
from jdyn.data.pipeline import assemble
from jdyn.data.sources import SOURCES

FROM_FILES = [name for name, cls in SOURCES.items() if not cls.bundled]
SMALL = {name: {'height': 48, 'width': 64} for name in ('nyuv2', 'sunrgbd')}
"""Options that make stand-ins small which are large by default."""


def make(name):
  return SOURCES[name](**SMALL.get(name, {}))


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp('cache')


@pytest.fixture(scope='module', params=SOURCES)
def dataset(request, cache):
  return load(make(request.param), '', cache)


def _features(split, spec):
  """A batch of the whole split as one table, at most some 2,000 columns of it."""
  batch = assemble(split, np.arange(len(split)))
  if spec.task == 'segmentation':
    image, *place = _pixels(split)
    inside = np.asarray(split.label)[image] < 255
    own = inside.any(axis=2).sum(axis=1), inside.any(axis=1).sum(axis=1)
    size = spec.modalities['rgb'].shape
    at = [i * new // old for i, new, old in zip(place, size, own, strict=False)]
    inputs = [batch['inputs'][name][image, *at] for name in spec.modalities]
    return np.concatenate(inputs, axis=1)
  tables = []
  for name in sorted(batch['inputs']):
    value = batch['inputs'][name]
    value = value['steps'] if isinstance(value, dict) else value
    table = np.asarray(value, np.float64).reshape(len(split), -1)
    tables.append(table[:, :: max(1, table.shape[1] // 1000)])
  return np.concatenate(tables, axis=1)


def _pixels(split):
  """Some pixels that have a class: image, row and column in the labels."""
  label = np.asarray(split.label)
  seen = np.argwhere((label > 0) & (label < 255))
  return tuple(np.random.default_rng(0).permutation(seen)[:1000].T)


def _targets(split, spec):
  if spec.task == 'segmentation':
    return np.eye(spec.num_outputs)[np.asarray(split.label)[_pixels(split)] - 1]
  if spec.task == 'multiclass':
    return np.eye(spec.num_outputs)[split.label]
  return split.label.reshape(len(split), -1).astype(np.float64)


@pytest.mark.parametrize('name', SOURCES)
def test_options_are_frozen_and_have_defaults(name):
  source = SOURCES[name]()
  assert source == SOURCES[name]()
  assert hash(source) == hash(SOURCES[name]())
  assert source.layout
  for field in dataclasses.fields(source):
    with pytest.raises(dataclasses.FrozenInstanceError):
      setattr(source, field.name, 0)


def test_splits_are_what_the_spec_says(dataset):
  spec = dataset.spec
  assert set(dataset.splits) == {'train', 'valid', 'test'}
  assert len(spec.class_names) == (0 if spec.task == 'regression' else spec.num_outputs)
  for split in dataset.splits.values():
    rows = np.arange(min(3, len(split)))
    inputs = assemble(split, rows)['inputs']
    assert set(inputs) == set(spec.modalities)
    for name, modality in spec.modalities.items():
      value = inputs[name]
      if modality.sequence:
        assert value['length'].dtype == np.int32
        assert (value['length'] <= modality.shape[0]).all()
        value = value['steps']
      assert value.dtype == np.float32
      assert value.shape == (len(rows), *modality.shape)


def test_ids_are_unique_and_splits_disjoint(dataset):
  ids = [name for split in dataset.splits.values() for name in split.ids.tolist()]
  assert len(set(ids)) == len(ids)


def test_every_class_can_be_trained_and_tested(dataset):
  if dataset.spec.task == 'regression':
    pytest.skip('regression has no classes')
  for part in ('train', 'test'):
    assert (_targets(dataset.splits[part], dataset.spec).sum(axis=0) > 0).all()


def test_labels_can_be_learnt_from_the_inputs(dataset):
  train, test = dataset.splits['train'], dataset.splits['test']
  x, z = (_features(split, dataset.spec) for split in (train, test))
  mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-6
  x, z = (x - mean) / scale, (z - mean) / scale
  y, truth = _targets(train, dataset.spec), _targets(test, dataset.spec)
  kernel = x @ x.T + x.shape[1] * np.eye(len(x))
  prediction = z @ x.T @ np.linalg.solve(kernel, y - y.mean(axis=0)) + y.mean(axis=0)
  error, baseline = ((truth - p) ** 2 for p in (prediction, y.mean(axis=0)))
  assert error.sum() < 0.9 * baseline.sum()


def test_decode_is_the_same_on_numpy_and_jax(dataset):
  split = dataset.splits['test']
  if split.decode is None:
    pytest.skip('stored as it is used')
  inputs = split.select(np.arange(3)).inputs
  ours = split.decode(inputs)
  # On a device there may be a further axis in front, for the steps of a call.
  theirs = split.decode(
    {name: jnp.asarray(leaf)[None] for name, leaf in inputs.items()}
  )
  for name, value in ours.items():
    assert theirs[name].dtype == value.dtype
    np.testing.assert_array_equal(theirs[name][0], value)


def test_decode_takes_what_it_is_given(dataset):
  split = dataset.splits['test']
  if split.decode is None:
    pytest.skip('stored as it is used')
  inputs = split.select(np.arange(3)).inputs
  everything, added = split.decode(inputs), np.ones((3, 2))
  for name in inputs:
    alone = split.decode({name: inputs[name], 'added': added})
    assert set(alone) == {name, 'added'}
    assert alone['added'] is added
    np.testing.assert_array_equal(alone[name], everything[name])


@pytest.mark.parametrize('name', FROM_FILES)
def test_stand_in_is_a_function_of_its_seed(name, cache, tmp_path):
  first = load(make(name), '', cache)
  again = load(make(name), '', tmp_path)
  other = load(make(name), '', tmp_path, seed=1)
  assert first.origin == 'synthetic stand-in'
  assert first.hashes == again.hashes
  assert first.hashes != other.hashes
  for part, split in first.splits.items():
    np.testing.assert_array_equal(split.ids, again.splits[part].ids)
    np.testing.assert_array_equal(split.label, again.splits[part].label)


@pytest.mark.parametrize('name', FROM_FILES)
def test_missing_files_are_named_with_the_layout(name, tmp_path):
  source = SOURCES[name]()
  with pytest.raises(DataError) as error:
    load(source, str(tmp_path / 'nowhere'), tmp_path)
  assert 'nowhere' in str(error.value)
  assert source.layout in str(error.value)


@pytest.mark.parametrize('damage', ['half', 'empty', 'noise'])
@pytest.mark.parametrize('name', FROM_FILES)
def test_damage_to_any_file_is_found(name, damage, tmp_path):
  source = make(name)
  source.write_stand_in(tmp_path, 0)
  paths = source.files(tmp_path)
  for path in paths[:: max(1, len(paths) // 8)]:  # One format may have many files.
    original = path.read_bytes()
    path.write_bytes(
      {
        'half': original[: len(original) // 2],
        'empty': b'',
        'noise': np.random.default_rng(0).bytes(2000),
      }[damage]
    )
    with pytest.raises(DataError, match=path.name.split('_')[0].split('.')[0]):
      load(source, str(tmp_path), tmp_path)
    path.write_bytes(original)
  load(source, str(tmp_path), tmp_path)


def test_the_table_is_light_to_import():
  code = (
    'import sys; import jdyn.data.sources, jdyn.data.load; '
    "print([m for m in ('jax', 'flax', 'h5py', 'sklearn', 'scipy', 'grain') "
    'if m in sys.modules])'
  )
  result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
  assert result.stdout.strip() == '[]', result.stderr
