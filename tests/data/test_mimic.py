"""MultiBench's MIMIC-III file: labels, splits, scaling, and what can be wrong."""

import json
import pickle
import random

import numpy as np
import pytest

from configs import mimic_icd1_i2m2
from jdyn.data.dataset import DataError
from jdyn.data.load import load
from jdyn.data.sources.mimic import MIMIC, split_rows

SIZE = 57
FIELDS = ('ep_tdata', 'adm_features_all', 'adm_labels_all', 'y_icd9')


def _raw(size=SIZE):
  rng = np.random.default_rng(0)
  series = rng.normal(3, 2, (size, 24, 12))
  static = rng.normal(-1, 5, (size, 5))
  series[3, 4, 5], series[6, 0, 0], series[9, 1, 2] = np.nan, np.inf, -np.inf
  static[2, 1], static[5, 3] = np.nan, -np.inf
  return {
    'ep_tdata': series,
    'adm_features_all': static,
    'adm_labels_all': (rng.random((size, 6)) < 0.2).astype(np.int64),
    'y_icd9': (rng.random((size, 20)) < 0.3).astype(np.int64),
  }


def _write(root, raw, protocol=4):
  (root / 'im.pk').write_bytes(pickle.dumps(raw, protocol))
  return root


def _original(raw, task, seen_rows=None):
  """The released loader in plain Python: `(static, series, label)` by split.

  Its row-by-row loops are kept, but means and deviations may be those of some rows.
  """
  series, static = raw['ep_tdata'].copy(), raw['adm_features_all'].copy()
  for values in (series, static):
    values[np.isinf(values)] = 0
    values[np.isnan(values)] = 0
  seen = slice(None) if seen_rows is None else seen_rows
  mean, deviation = np.average(static[seen], 0), np.std(static[seen], 0)
  hourly = np.average(series[seen], (0, 1)), np.std(series[seen], (0, 1))
  examples = []
  for i in range(len(series)):
    if task is None:
      given = raw['adm_labels_all'][i]
      label = next((k for k in range(1, 6) if given[k] > 0), 0)
    else:
      label = raw['y_icd9'][i, task]
    scaled = np.array([(step - hourly[0]) / hourly[1] for step in series[i]])
    examples.append(((static[i] - mean) / deviation, scaled, label, i))
  random.seed(10)
  random.shuffle(examples)
  tenth, fifth = len(examples) // 10, len(examples) // 5
  return {
    'valid': examples[:tenth],
    'test': examples[tenth:fifth],
    'train': examples[fifth:],
  }


@pytest.mark.parametrize(
  ('task', 'column'), [('mortality', None), ('icd1', 1), ('icd7', 7)]
)
@pytest.mark.parametrize('standardise', ['published', 'train'])
def test_equals_the_released_loader(tmp_path, task, column, standardise):
  raw = _raw()
  rows = None
  if standardise == 'train':
    rows = [row for *_, row in _original(raw, column)['train']]
  want = _original(raw, column, rows)
  dataset = load(MIMIC(task, standardise), str(_write(tmp_path, raw)), tmp_path)
  assert dataset.spec.num_outputs == (6 if task == 'mortality' else 2)
  for name, examples in want.items():
    static, series, label, rows = (np.array(x) for x in zip(*examples, strict=True))
    split = dataset.splits[name]
    assert split.ids.tolist() == [f'row/{row:05d}' for row in rows]
    np.testing.assert_array_equal(split.label, label)
    np.testing.assert_allclose(split.inputs['static'], static, rtol=1e-5, atol=1e-6)
    steps = split.inputs['series']['steps']
    np.testing.assert_allclose(steps, series, rtol=1e-5, atol=1e-6)
    assert (split.inputs['series']['length'] == 24).all()


def test_sizes_are_those_of_the_benchmark():
  sizes = {name: len(rows) for name, rows in split_rows(32616).items()}
  assert sizes == {'train': 26093, 'valid': 3261, 'test': 3262}


def test_training_means_do_not_see_the_test_rows(tmp_path):
  raw = _raw()
  test_row = int(MIMIC().load(_write(tmp_path, raw))['test'].ids[0].split('/')[1])
  before = MIMIC().load(tmp_path)['train'].inputs['static']
  raw['adm_features_all'][test_row] = 1e6
  _write(tmp_path, raw)
  np.testing.assert_array_equal(
    MIMIC().load(tmp_path)['train'].inputs['static'], before
  )
  published = MIMIC(standardise='published').load(tmp_path)['train'].inputs['static']
  assert not np.allclose(published, before)


def test_a_feature_that_does_not_vary_is_zero(tmp_path):
  raw = _raw()
  raw['adm_features_all'][:, 2] = 0.1
  raw['ep_tdata'][..., 7] = -3
  for standardise in ('train', 'published'):
    with np.errstate(all='raise'):
      splits = MIMIC('icd1', standardise).load(_write(tmp_path, raw))
    for split in splits.values():
      np.testing.assert_array_equal(split.inputs['static'][:, 2], 0)
      np.testing.assert_array_equal(split.inputs['series']['steps'][..., 7], 0)


def test_the_first_column_of_mortality_does_not_count(tmp_path):
  raw = _raw()
  raw['adm_labels_all'][:] = [1, 0, 0, 0, 0, 0]
  raw['adm_labels_all'][0] = [0, 0, 0, 1, 0, 1]
  splits = MIMIC().load(_write(tmp_path, raw)).values()
  labels = {
    i: y for split in splits for i, y in zip(split.ids, split.label, strict=True)
  }
  assert labels.pop('row/00000') == 3
  assert set(labels.values()) == {0}


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_every_protocol_is_read(tmp_path, protocol):
  assert len(MIMIC().load(_write(tmp_path, _raw(), protocol))['train']) == 46


class _Bomb:
  def __reduce__(self):
    return exec, ('raise SystemExit',)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'ep_tdata': None}, "'ep_tdata' is NoneType; expected an array of numbers"),
    ({'ep_tdata': _raw()['ep_tdata'][:, 1:]}, r'instead of \(N, 24, 12\)'),
    ({'adm_features_all': np.zeros((SIZE - 1, 5))}, r'instead of \(57, 5\)'),
    ({'adm_features_all': np.zeros((SIZE, 5), 'S3')}, "'adm_features_all' is |S3"),
    ({'adm_labels_all': np.zeros((SIZE, 5))}, r"'adm_labels_all' .* of \(57, 6\)"),
    ({'adm_labels_all': _Bomb()}, "the global '(__builtin__|builtins).exec'"),
  ],
)
def test_a_wrong_field_is_named(tmp_path, change, message):
  _write(tmp_path, _raw() | change)
  with pytest.raises(DataError, match=f'im.pk.*{message}'):
    MIMIC().load(tmp_path)


@pytest.mark.parametrize(
  ('codes', 'message'),
  [
    (np.zeros((SIZE, 7)), "'y_icd9' has 7 columns, task='icd7' reads column 7"),
    (np.full((SIZE, 20), 2), "'y_icd9', column 7: row 0 is 2"),
    (np.full((SIZE, 20), np.nan), "'y_icd9', column 7: row 0 is nan"),
    (np.zeros(SIZE), r"'y_icd9' has shape \(57,\)"),
  ],
)
def test_wrong_codes_are_named(tmp_path, codes, message):
  _write(tmp_path, _raw() | {'y_icd9': codes})
  with pytest.raises(DataError, match=f'im.pk.*{message}'):
    MIMIC('icd7').load(tmp_path)


@pytest.mark.parametrize('name', FIELDS[:3])
def test_a_missing_field_is_named(tmp_path, name):
  raw = _raw()
  del raw[name]
  with pytest.raises(DataError, match=f"im.pk: '{name}' is NoneType"):
    MIMIC().load(_write(tmp_path, raw))


def test_no_dict_and_too_few_rows(tmp_path):
  with pytest.raises(DataError, match=r'im\.pk: no dict of arrays'):
    MIMIC().load(_write(tmp_path, [1, 2]))
  with pytest.raises(DataError, match=r'im\.pk: 9 rows; at least 10'):
    MIMIC().load(_write(tmp_path, {k: v[:9] for k, v in _raw().items()}))


def test_the_file_can_be_trained_on(tmp_path, train, compile_fast):
  config = mimic_icd1_i2m2.get_config()
  config.epochs = 1
  dataset = load(MIMIC('icd1'), str(_write(tmp_path, _raw(200))), tmp_path)
  workdir = train(config, dataset=dataset)
  assert dataset.origin == 'real'
  result = json.loads((workdir / 'stages/main/result.json').read_text())
  scores = result['splits']['test']['interval']
  assert {'accuracy', 'auc', 'average_precision', 'f1', 'loss'} <= set(scores)
  assert result['parameters'] == 692 + 18947 + 33452  # Those of the original's models.


@pytest.mark.parametrize('option', [{'task': 'icd3'}, {'standardise': 'all'}])
def test_an_unknown_option_is_refused(option):
  ((key, value),) = option.items()
  with pytest.raises(ValueError, match=f"{key}='{value}'; expected one of"):
    MIMIC(**option)
