import jax.numpy as jnp
import numpy as np
import pytest

from jdyn.layers.join import flatten, join


def _sequence(features, length, steps=3):
  values = jnp.arange(1.0, 1 + len(length) * steps * features)
  return {
    'steps': values.reshape(len(length), steps, features),
    'length': jnp.array(length, jnp.int32),
  }


INPUTS = {
  'text': jnp.arange(4.0).reshape(2, 2),
  'image': jnp.arange(8.0).reshape(2, 2, 2, 1) + 10,
  'audio': _sequence(2, [3, 1]),
  'video': _sequence(1, [2, 3]),
}


def test_arrays_are_flattened_and_sorted_by_name():
  want = [[10, 11, 12, 13, 0, 1], [14, 15, 16, 17, 2, 3]]
  np.testing.assert_array_equal(join(INPUTS, ('text', 'image')), want)
  np.testing.assert_array_equal(join(INPUTS, ('image', 'text', 'image')), want)


def test_sequences_are_joined_step_by_step_to_the_longest():
  joined = join(INPUTS, ('video', 'audio'))
  np.testing.assert_array_equal(joined['length'], [3, 3])
  np.testing.assert_array_equal(
    joined['steps'],
    [[[1, 2, 1], [3, 4, 2], [5, 6, 0]], [[7, 8, 4], [0, 0, 5], [0, 0, 6]]],
  )


def test_one_modality_is_left_as_it_is():
  assert join(INPUTS, ('image',)) is INPUTS['image']
  assert join(INPUTS, ['audio']) is INPUTS['audio']


def test_flatten_reads_missing_steps_as_zero():
  np.testing.assert_array_equal(
    flatten(INPUTS['audio']), [[1, 2, 3, 4, 5, 6], [7, 8, 0, 0, 0, 0]]
  )


@pytest.mark.parametrize(
  ('inputs', 'names', 'message'),
  [
    (INPUTS, ('smell', 'text'), r"unknown \['smell'\]; choose from \['audio'"),
    (INPUTS, (), 'no modality'),
    (INPUTS, ('audio', 'text'), r"\['text'\] are arrays"),
    (
      {'a': _sequence(1, [1]), 'b': _sequence(1, [1], steps=4)},
      ('a', 'b'),
      "different numbers of steps: {'a': 3, 'b': 4}",
    ),
  ],
)
def test_what_cannot_be_joined(inputs, names, message):
  with pytest.raises(ValueError, match=message):
    join(inputs, names)
