"""Every kind of bad dataset is refused, by name, with the first bad example."""

import dataclasses

import numpy as np
import pytest

from jdyn.data import validate as validate_module
from jdyn.data.dataset import DataError, DataSpec, ModalitySpec, Split
from jdyn.data.validate import validate

SPEC = DataSpec(
  name='toy',
  task='multiclass',
  modalities={
    'table': ModalitySpec((3,)),
    'words': ModalitySpec((4, 2), sequence=True),
  },
  num_outputs=3,
  class_names=('a', 'b', 'c'),
)


def _split(name, size=6, **changes):
  rng = np.random.default_rng(0)
  split = Split(
    inputs={
      'table': rng.random((size, 3), np.float32),
      'words': {
        'steps': rng.random((size, 4, 2), np.float32),
        'length': np.full(size, 4, np.int32),
      },
    },
    label=(np.arange(size) % 3).astype(np.int32),
    ids=np.array([f'{name}/{row}' for row in range(size)]),
  )
  return dataclasses.replace(split, **changes)


def _splits(**changes):
  return {
    'train': _split('train'),
    'valid': _split('valid', **changes),
    'test': _split('test'),
  }


def _inputs(**changes):
  return {**_split('valid').inputs, **changes}


def _with(array, row, value):
  array = array.copy()
  array[row] = value
  return array


def _words(**changes):
  return _inputs(words={**_split('valid').inputs['words'], **changes})


_TABLE = _split('valid').inputs['table']
_STEPS = _split('valid').inputs['words']['steps']
_LENGTH = np.full(6, 4, np.int32)
_LABEL = _split('valid').label
_IDS = _split('valid').ids


_ALL, _HALF = np.ones(6, bool), np.arange(6) < 3


def test_a_good_dataset_passes():
  validate(SPEC, _splits())
  some = {'present/table': _HALF, 'present/words': ~_HALF}
  validate(SPEC, _splits(inputs=_inputs(**some)))
  # The words are there for everyone.
  validate(SPEC, _splits(inputs=_inputs(**{'present/table': ~_ALL})))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (dict(ids=_with(_IDS, 2, 'valid/0')), 'id valid/0 occurs more than once'),
    (dict(ids=_with(_IDS, 2, 'test/1')), '1 ids are in valid and in test.* test/1'),
    (dict(ids=_IDS[:5]), 'expected 6 texts'),
    (dict(ids=np.arange(6)), 'int64 of shape .6,.; expected 6 texts'),
    (dict(label=_with(_LABEL, 4, 3)), '1 of 6 labels .* 3 of example valid/4'),
    (dict(label=_with(_LABEL, 1, -1)), '-1 of example valid/1.* from 0 to 2'),
    (dict(label=_LABEL.astype(np.int64)), 'int64 .*needs int32'),
    (dict(label=np.eye(3, dtype=np.int32)[_LABEL]), 'needs int32 of shape .6,.'),
    (dict(label=_LABEL[:0]), 'is empty'),
    (dict(inputs={'table': _TABLE}), r"modalities \['table'\] instead of"),
    (dict(inputs=_inputs(table=_TABLE[:5])), 'modality table: .*for 6 examples'),
    (dict(inputs=_inputs(table=_TABLE[:, :2])), r'shape \(2,\) instead of \(3,\)'),
    (dict(inputs=_inputs(table=_TABLE.astype(np.float64))), 'table: .* type float64'),
    (dict(inputs=_inputs(table=_TABLE.astype(str))), 'expected numbers'),
    (dict(inputs=_inputs(table=_TABLE.astype('>f4'))), 'byte order'),
    (
      dict(inputs=_inputs(table=_with(_with(_TABLE, (3, 1), np.nan), 5, np.inf))),
      'split valid, modality table: 2 of 6 examples hold NaN.* valid/3',
    ),
    (
      dict(inputs=_words(steps=_with(_STEPS, (2, 3, 1), -np.inf))),
      'modality words: 1 of 6 examples hold NaN or infinity, the first is valid/2',
    ),
    (dict(inputs=_words(length=_with(_LENGTH, 5, 5))), 'outside 1 to 4.* valid/5'),
    (dict(inputs=_words(length=_with(_LENGTH, 1, 0))), 'outside 1 to 4.* valid/1'),
    (dict(inputs=_words(length=_LENGTH.astype(np.float32))), 'lengths are float32'),
    (dict(inputs=_inputs(words=_STEPS)), 'a sequence is a mapping'),
    (dict(decode=lambda x: {**x, 'table': x['table'][:, :1]}), r'shape \(1,\) instead'),
    (
      dict(inputs=_inputs(**{'present/table': _ALL.astype(np.float32)})),
      'split valid, present/table: float32 of shape .6,.; expected bool',
    ),
    (
      dict(inputs=_inputs(**{'present/table': _ALL[:, None]})),
      r'present/table: bool of shape \(6, 1\); expected bool of shape \(6,\)',
    ),
    (dict(inputs=_inputs(**{'present/smell': _ALL})), "modalities .*'present/smell'"),
    (
      dict(
        inputs=_inputs(
          **{'present/table': _HALF, 'present/words': _with(~_HALF, 4, False)}
        )
      ),
      'valid: 1 examples have no modality at all, the first is valid/4',
    ),
  ],
)
def test_a_bad_split_is_refused(changes, message):
  with pytest.raises(DataError, match=message):
    validate(SPEC, _splits(**changes))


@pytest.mark.parametrize(
  ('task', 'label', 'message'),
  [
    ('regression', np.float32([0, 1, np.nan, 3, 4, 5]), 'nan of example valid/2'),
    ('regression', np.arange(6), 'needs float32'),
    ('multilabel', np.float32([[0, 0.5]] + 5 * [[1, 1]]), '1 of 6 labels .* valid/0'),
    ('multilabel', np.zeros((6, 3), np.float32), r'needs float32 of shape \(6, 2\)'),
  ],
)
def test_labels_of_other_tasks_are_checked(task, label, message):
  names = {'multilabel': ('x', 'y'), 'regression': ()}[task]
  spec = dataclasses.replace(
    SPEC, task=task, num_outputs=max(1, len(names)), class_names=names
  )
  good = np.float32([[0, 1]] * 6) if names else np.zeros(6, np.float32)
  splits = {name: _split(name, label=good) for name in ('train', 'valid', 'test')}
  validate(spec, splits)
  splits['valid'] = _split('valid', label=label)
  with pytest.raises(DataError, match=message):
    validate(spec, splits)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (dict(task='ranking'), "'ranking'; expected one of"),
    (dict(class_names=('a',)), '1 class names for 3 classes'),
  ],
)
def test_a_bad_specification_is_refused(changes, message):
  with pytest.raises(DataError, match=message):
    validate(dataclasses.replace(SPEC, **changes), _splits())


def test_a_missing_split_is_refused():
  splits = _splits()
  del splits['valid']
  with pytest.raises(DataError, match='must give'):
    validate(SPEC, splits)


def test_memory_maps_are_read_in_pieces(tmp_path, monkeypatch):
  path = tmp_path / 'table.npy'
  np.save(path, _with(np.zeros((1000, 3), np.float32), (777, 0), np.nan))
  mapped = np.load(path, mmap_mode='r')
  largest = []
  isfinite = np.isfinite

  def spy(chunk):
    largest.append(chunk.nbytes)
    return isfinite(chunk)

  monkeypatch.setattr(validate_module, '_CHUNK_BYTES', 1200)
  monkeypatch.setattr(validate_module.np, 'isfinite', spy)
  spec = dataclasses.replace(SPEC, modalities={'table': ModalitySpec((3,))})
  splits = {
    name: dataclasses.replace(_split(name), inputs={'table': _TABLE})
    for name in ('train', 'test')
  }
  splits['valid'] = dataclasses.replace(
    _split('valid', size=1000), inputs={'table': mapped}
  )
  with pytest.raises(DataError, match=r'1 of 1000 examples .* valid/777'):
    validate(spec, splits)
  assert max(largest) <= 1200
