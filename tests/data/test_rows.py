"""Batches that are read by row: from arrays, files and splits."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jdyn.data.dataset import DataError
from jdyn.data.pipeline import assemble
from jdyn.data.rows import FileRows, SplitRows
from tests import toys

SIZE = 5
SPLIT = toys.split(SIZE)
AUDIO = toys.SPEC.modalities['audio'].shape
ROWS = np.array([3, 0])


def _write(folder, arrays):
  paths = [folder / f'{row}.npy' for row in range(len(arrays))]
  for path, array in zip(paths, arrays, strict=True):
    np.save(path, array)
  return paths


@pytest.fixture
def files(tmp_path):
  """The toy batch with images and sounds in files, a sound with its own length."""
  for name in ('image', 'audio'):
    (tmp_path / name).mkdir()
  audio = SPLIT.inputs['audio']
  steps = [x[:n] for x, n in zip(audio['steps'], audio['length'], strict=True)]
  return {
    'text': SPLIT.inputs['text'],
    'image': [str(path) for path in _write(tmp_path / 'image', SPLIT.inputs['image'])],
    'audio': _write(tmp_path / 'audio', steps),
  }


@pytest.mark.parametrize('rows', [None, ROWS], ids=['all', 'some'])
def test_files_and_arrays_hold_the_same(files, rows):
  reader = FileRows(files, toys.SPEC.modalities)
  got = reader.read(rows=rows)
  assert (reader.size, reader.names) == (SIZE, ('audio', 'image', 'text'))
  take = np.arange(SIZE) if rows is None else rows
  for name in ('image', 'text'):
    np.testing.assert_array_equal(got[name], SPLIT.inputs[name][take])
  length = SPLIT.inputs['audio']['length'][take]
  np.testing.assert_array_equal(got['audio']['length'], length)
  real = np.arange(toys.STEPS) < length[:, None]
  want = SPLIT.inputs['audio']['steps'][take] * real[..., None]
  np.testing.assert_array_equal(got['audio']['steps'], want)


def test_only_what_is_asked_for_is_opened(files, tmp_path):
  for row in set(range(SIZE)) - set(ROWS):
    (tmp_path / 'image' / f'{row}.npy').unlink()
  reader = FileRows(files, toys.SPEC.modalities)
  reader.read(('text', 'audio'))
  reader.read(('image',), ROWS)
  with pytest.raises(DataError, match=r'image/1\.npy is no readable'):
    reader.read(('image',))


def test_arrays_alone_are_not_files():
  assert FileRows(dict(SPLIT.inputs), toys.SPEC.modalities).files == ()


@pytest.mark.parametrize(
  ('array', 'message'),
  [
    (np.zeros((3, 2), np.float32), r'holds an array \[3, 2\]; the model reads shape'),
    (np.array([[None]]), 'without Python objects'),
  ],
  ids=['shape', 'objects'],
)
def test_a_bad_image_is_named(files, array, message):
  np.save(files['image'][1], array, allow_pickle=True)
  with pytest.raises(DataError, match=message) as error:
    FileRows(files, toys.SPEC.modalities).read(('image',))
  assert files['image'][1] in str(error.value)


@pytest.mark.parametrize('steps', [0, toys.STEPS + 1])
def test_a_sequence_has_one_step_or_more_and_no_more_than_the_model_reads(files, steps):
  np.save(files['audio'][2], np.zeros((steps, AUDIO[1])))
  with pytest.raises(DataError, match=f'at most {toys.STEPS} steps'):
    FileRows(files, toys.SPEC.modalities).read(('audio',))


def test_a_cut_off_file_is_named(files, tmp_path):
  path = tmp_path / 'image' / '0.npy'
  path.write_bytes(path.read_bytes()[:-3])
  with pytest.raises(DataError, match=r'0\.npy is no readable'):
    FileRows(files, toys.SPEC.modalities).read(('image',))


def test_lists_do_for_a_sequence():
  audio = {key: value.tolist() for key, value in SPLIT.inputs['audio'].items()}
  got = FileRows({'audio': audio}, toys.SPEC.modalities).read(rows=ROWS)['audio']
  np.testing.assert_allclose(got['steps'], SPLIT.inputs['audio']['steps'][ROWS])
  np.testing.assert_array_equal(got['length'], SPLIT.inputs['audio']['length'][ROWS])


@pytest.mark.parametrize('dtype', ['U3', complex, object])
def test_arrays_hold_numbers(dtype):
  text = SPLIT.inputs['text'].astype(dtype)
  with pytest.raises(ValueError, match=r"inputs\['text'\] is of type .* numbers"):
    FileRows({'text': text}, toys.SPEC.modalities)


def test_arrays_have_the_shape_and_length_that_belong_to_the_run():
  wrong = {**SPLIT.inputs, 'text': np.zeros((SIZE, 3))}
  with pytest.raises(ValueError, match=r"inputs\['text'\] must be \[B, 4\]"):
    FileRows(wrong, toys.SPEC.modalities)
  short = {**SPLIT.inputs, 'text': np.zeros((SIZE - 1, 4))}
  with pytest.raises(ValueError, match='as many examples of every modality'):
    FileRows(short, toys.SPEC.modalities)


@pytest.mark.parametrize('rows', [None, ROWS], ids=['all', 'some'])
def test_what_an_example_lacks_is_zero_whatever_is_given(files, tmp_path, rows):
  present = np.array([1, 0, 1, 0, 1], bool)
  for row in np.flatnonzero(~present):
    (tmp_path / 'image' / f'{row}.npy').unlink()
  audio = {key: value.copy() for key, value in SPLIT.inputs['audio'].items()}
  audio['steps'][~present], audio['length'][~present] = np.nan, 0
  text = np.where(present[:, None], SPLIT.inputs['text'], np.inf)
  given = {'image': files['image'], 'audio': audio, 'text': text}
  masks = {f'present/{name}': present for name in given}
  take = np.arange(SIZE) if rows is None else rows
  for some in (given, {**given, 'text': jnp.asarray(text)}):
    got = FileRows({**some, **masks}, toys.SPEC.modalities).read(rows=rows)
    for name in ('image', 'text'):
      want = np.where(
        present.reshape(-1, *[1] * (SPLIT.inputs[name].ndim - 1)),
        SPLIT.inputs[name],
        0,
      )
      np.testing.assert_array_equal(got[name], want[take])
      assert got[name].dtype == SPLIT.inputs[name].dtype
    length = np.where(present, SPLIT.inputs['audio']['length'], 1)
    np.testing.assert_array_equal(got['audio']['length'], length[take])
    assert np.isfinite(got['audio']['steps']).all()


def test_split_rows_are_decoded():
  split = dataclasses.replace(
    SPLIT, decode=lambda inputs: {k: v * 2.0 for k, v in inputs.items()}
  ).only(('text', 'image'))
  reader = SplitRows(split, np.array([4, 2, 1]))
  got = reader.read(('text',), np.array([2, 0]))
  assert set(got) == {'text'}
  np.testing.assert_array_equal(got['text'], 2 * SPLIT.inputs['text'][[1, 4]])


def test_what_a_batch_is_collated_to_does_not_depend_on_who_asks():
  """Padding to the longest is of the whole batch, also for some of its rows."""

  def longest(inputs):
    length = np.full_like(inputs['audio']['length'], inputs['audio']['length'].max())
    return {**inputs, 'audio': {**inputs['audio'], 'length': length}}

  split = dataclasses.replace(SPLIT.only(('audio',)), collate=longest)
  batch = np.argsort(SPLIT.inputs['audio']['length'])
  whole = assemble(split, batch)['inputs']['audio']
  some = SplitRows(split, batch).read(('audio',), np.array([0]))['audio']
  np.testing.assert_array_equal(some['length'], whole['length'][:1])
  np.testing.assert_array_equal(some['steps'], whole['steps'][:1])


def test_lists_of_numbers_are_arrays_and_arrays_of_names_are_files(files):
  text = SPLIT.inputs['text']
  reader = FileRows({'text': text.tolist()}, toys.SPEC.modalities)
  np.testing.assert_allclose(reader.read()['text'], text)
  reader = FileRows({'image': tuple(files['image'])}, toys.SPEC.modalities)
  assert reader.files == ('image',)


@pytest.mark.parametrize(
  'length',
  [
    np.ones(SIZE - 1, int),
    np.zeros(SIZE, int),
    np.full(SIZE, toys.STEPS + 1),
    np.full(SIZE, 1.5),
    np.ones(SIZE, bool),
  ],
)
def test_lengths_are_of_steps_that_exist(length):
  audio = {**SPLIT.inputs['audio'], 'length': length}
  with pytest.raises(ValueError, match=f'from 1 to {toys.STEPS}'):
    FileRows({'audio': audio}, toys.SPEC.modalities)
