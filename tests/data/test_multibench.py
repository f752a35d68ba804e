"""MultiBench pickles: alignment, paddings, labels, ids and malformed files."""

import pickle

import numpy as np
import pytest

from jdyn.data.dataset import DataError
from jdyn.data.sources.multibench import FORMATS, MultiBench

FILE = 'mosi_data.pkl'
WIDTHS = {'vision': 20, 'audio': 5, 'text': 300}
STEPS = 6


def _raw(count=4, seed=0):
  """One split as in the file: zeros in front, then 1 to STEPS real steps."""
  rng = np.random.default_rng(seed)
  raw = {
    name: rng.standard_normal((count, STEPS, width)) for name, width in WIDTHS.items()
  }
  for row, length in enumerate(1 + rng.permutation(count) % STEPS):
    for name in WIDTHS:
      raw[name][row, : STEPS - length] = 0
  raw['labels'] = rng.uniform(-3, 3, (count, 1, 1))
  raw['id'] = np.array([f'{seed}-{row}' for row in range(count)])
  return raw


def _splits():
  return {name: _raw(seed=seed) for seed, name in enumerate(('train', 'valid', 'test'))}


def _load(tmp_path, splits, file=FILE, protocol=4, **options):
  (tmp_path / file).write_bytes(pickle.dumps(splits, protocol))
  return MultiBench(file=file, **options).load(tmp_path)


def _expected(raw, max_length, znorm):
  """The spec, row by row."""
  rows = [row for row in range(len(raw['text'])) if raw['text'][row].sum() != 0]
  inputs, lengths = {name: [] for name in WIDTHS}, []
  for row in rows:
    start = next(t for t in range(STEPS) if raw['text'][row, t].any())
    lengths.append(min(STEPS - start, max_length))
    for name in WIDTHS:
      steps = raw[name][row, start:].copy()
      if name == 'audio':
        steps[steps == -np.inf] = 0
      if znorm:
        with np.errstate(all='ignore'):
          steps = (steps - steps.mean(0)) / steps.std(0, ddof=min(1, len(steps) - 1))
        steps = np.nan_to_num(steps)
      padded = np.zeros((max_length, WIDTHS[name]))
      padded[: len(steps[:max_length])] = steps[:max_length]
      inputs[name].append(padded)
  return rows, inputs, lengths


@pytest.mark.parametrize('znorm', [False, True])
@pytest.mark.parametrize('max_length', [3, STEPS, 8])
def test_alignment_equals_the_definition(tmp_path, max_length, znorm):
  splits = _splits()
  splits['train'] = raw = _raw(count=12, seed=7)
  raw['text'][[0, 5]] = 0
  raw['audio'][3, -1, 2] = -np.inf
  raw['vision'][4, -2:, 3] = 0.5
  rows, inputs, lengths = _expected(raw, max_length, znorm)
  train = _load(tmp_path, splits, max_length=max_length, znorm=znorm)['train']
  assert len(rows) == 10
  assert set(lengths) >= {1, 2, 3}
  for name in WIDTHS:
    np.testing.assert_array_equal(train.inputs[name]['length'], lengths)
    assert train.inputs[name]['length'].dtype == np.int32
    assert train.inputs[name]['steps'].dtype == np.float32
    np.testing.assert_allclose(
      train.inputs[name]['steps'], inputs[name], rtol=1e-5, atol=1e-5
    )
  np.testing.assert_allclose(train.label, raw['labels'][rows, 0, 0], rtol=1e-6)
  np.testing.assert_array_equal(train.ids, raw['id'][rows])


def test_text_decides_where_all_modalities_start(tmp_path):
  splits = _splits()
  raw = splits['train']
  for name in WIDTHS:
    raw[name][0] = np.arange(1, STEPS + 1)[:, None]
  raw['text'][0, :2] = 0
  raw['text'][0, 3] = 0  # A word without a vector does not end the utterance.
  inputs = _load(tmp_path, splits, max_length=STEPS)['train'].inputs
  assert inputs['text']['length'][0] == 4
  np.testing.assert_array_equal(inputs['text']['steps'][0, :, 0], [3, 0, 5, 6, 0, 0])
  np.testing.assert_array_equal(inputs['audio']['steps'][0, :, 0], [3, 4, 5, 6, 0, 0])


def test_znorm_of_features_that_do_not_vary_is_zero(tmp_path):
  splits = _splits()
  splits['train']['text'][:] = np.arange(1, STEPS + 1)[:, None]
  splits['train']['vision'][:] = 0.1  # Its float32 mean is not exactly 0.1.
  vision = _load(tmp_path, splits, znorm=True)['train'].inputs['vision']['steps']
  np.testing.assert_array_equal(vision, 0)


def test_many_rows_are_converted_block_by_block(tmp_path, monkeypatch):
  splits = _splits()
  splits['train'] = _raw(count=11)
  whole = _load(tmp_path, splits)['train']
  monkeypatch.setattr('jdyn.data.sources.multibench._BLOCK', 2)
  blocks = _load(tmp_path, splits)['train']
  for name in WIDTHS:
    np.testing.assert_array_equal(
      whole.inputs[name]['steps'], blocks.inputs[name]['steps']
    )


class TestPadding:
  def _train(self, tmp_path, padding):
    splits = _splits()
    for row, length in enumerate((2, 5, 3, 1)):
      splits['train']['text'][row] = 0
      splits['train']['text'][row, STEPS - length :] = 1
    return _load(tmp_path, splits, padding=padding, max_length=STEPS)['train']

  @pytest.mark.parametrize(
    ('padding', 'lengths'),
    [('masked', [2, 5, 3, 1]), ('batch_max', [2, 5, 3, 1]), ('fixed', [STEPS] * 4)],
  )
  def test_lengths(self, tmp_path, padding, lengths):
    train = self._train(tmp_path, padding)
    for value in train.inputs.values():
      np.testing.assert_array_equal(value['length'], lengths)
    assert (train.collate is not None) == (padding == 'batch_max')

  def test_batch_max_is_the_longest_of_the_batch(self, tmp_path):
    train = self._train(tmp_path, 'batch_max')
    for rows, longest in (([0, 2], 3), ([0, 1, 2, 3], 5), ([3], 1)):
      batch = train.select(np.array(rows)).inputs
      collated = train.collate(batch)
      for name, value in collated.items():
        np.testing.assert_array_equal(value['length'], [longest] * len(rows))
        assert value['length'].dtype == np.int32
        np.testing.assert_array_equal(value['steps'], batch[name]['steps'])
      added = {'logits': np.ones(3)}
      assert train.collate({**batch, **added})['logits'] is added['logits']
      assert batch['text']['length'][0] == train.inputs['text']['length'][rows[0]]


class TestLabels:
  def _labels(self, tmp_path, labels, file=FILE, **options):
    splits = _splits()
    for raw in splits.values():
      raw['labels'] = np.array(labels)
      for name, width in FORMATS[file].widths.items():
        raw[name] = np.ones((4, STEPS, width), 'f4')
    return _load(tmp_path, splits, file, **options)['test'].label

  def test_first_of_several_columns(self, tmp_path):
    labels = np.arange(8.0).reshape(4, 1, 2)
    np.testing.assert_array_equal(self._labels(tmp_path, labels), [0, 2, 4, 6])

  @pytest.mark.parametrize('shape', [(4,), (4, 1), (4, 1, 1)])
  def test_shapes(self, tmp_path, shape):
    label = self._labels(tmp_path, np.array([-3, 0, 0.5, 3]).reshape(shape))
    np.testing.assert_array_equal(label, np.array([-3, 0, 0.5, 3], 'f4'), strict=True)

  def test_binary_is_above_zero(self, tmp_path):
    label = self._labels(tmp_path, [-0.4, 0, 0.2, 3], label='binary')
    np.testing.assert_array_equal(label, np.array([0, 0, 1, 1], 'i4'), strict=True)

  @pytest.mark.parametrize(
    ('file', 'labels'), [('sarcasm.pkl', [-1, 1, 1, -1]), ('humor.pkl', [0, 1, 1, 0])]
  )
  def test_yes_or_no_as_regression(self, tmp_path, file, labels):
    label = self._labels(tmp_path, labels, file)
    np.testing.assert_array_equal(label, np.array([-1, 1, 1, -1], 'f4'), strict=True)


class TestIds:
  def _ids(self, tmp_path, ids, protocol=4):
    splits = _splits()
    splits['train']['id'] = ids
    return _load(tmp_path, splits, protocol=protocol)['train'].ids.tolist()

  @pytest.mark.parametrize(
    ('ids', 'expected'),
    [
      (np.array([b'a', b'b', b'c', b'd']), ['a', 'b', 'c', 'd']),
      (np.arange(4), ['0', '1', '2', '3']),
      (['a', 'b', 'c', 'd'], ['a', 'b', 'c', 'd']),
      (
        np.array([['v', 0.5, 1.5], ['v', 1.5, 2.0], ['w', 0, 1], ['w', 1, 2]], object),
        ['v_0.5_1.5', 'v_1.5_2.0', 'w_0_1', 'w_1_2'],
      ),
      (np.array(list('aaba'), object), ['a#0', 'a#1', 'b#2', 'a#3']),
    ],
  )
  @pytest.mark.parametrize('protocol', [2, 4])
  def test_become_unique_strings(self, tmp_path, ids, expected, protocol):
    assert self._ids(tmp_path, ids, protocol) == expected

  def test_repeated_ids_name_the_row_of_the_file(self, tmp_path):
    splits = _splits()
    splits['train']['id'] = np.array(['a'] * 4)
    splits['train']['text'][1] = 0
    ids = _load(tmp_path, splits)['train'].ids
    assert ids.tolist() == ['a#0', 'a#2', 'a#3']


def _without(split, field=None):
  def change(splits):
    if field is None:
      del splits[split]
    else:
      del splits[split][field]

  return change


def _with(field, value):
  def change(splits):
    splits['valid'][field] = value(splits['valid'][field])

  return change


def _at(value, row=2):
  def place(array):
    array[row, -1, 0] = value
    return array

  return place


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (_without('valid'), "no dict 'valid'"),
    (_without('valid', 'audio'), "valid: no field 'audio'"),
    (_without('valid', 'id'), "valid: no field 'id'"),
    (_with('vision', lambda x: x[..., :19]), r"'vision' has shape \(4, 6, 19\).* 20 "),
    (_with('audio', lambda x: x[:3]), r"'audio' has shape \(3, 6, 5\)"),
    (_with('audio', lambda x: x[:, :5]), r"'audio' has shape \(4, 5, 5\)"),
    (_with('text', lambda x: x[:, 0]), r"'text' has shape \(4, 300\)"),
    (_with('text', lambda x: x[:0]), r"'text' has shape \(0, 6, 300\)"),
    (_with('text', lambda x: x * 0), "'text' is all zeros"),
    (_with('text', lambda x: x.astype(object)), "'text' holds objects"),
    (_with('vision', lambda x: x.astype('S3')), r"'vision' holds \|S3"),
    (_with('labels', lambda x: x[:3]), r"'labels' has shape \(3, 1, 1\)"),
    (_with('labels', lambda x: x.astype(str)), "'labels' is no array of numbers"),
    (_with('labels', _at(np.nan)), "'labels' of row 2 is nan"),
    (_with('id', lambda x: x[:3]), "'id' is no list of one id for each"),
    (_with('audio', _at(np.nan)), "'audio' of row 2 has NaN or infinite"),
    (_with('audio', _at(np.inf)), "'audio' of row 2 has NaN or infinite"),
    (_with('audio', _at(1e300)), "'audio' of row 2 has NaN or infinite"),
    (_with('vision', _at(-np.inf)), "'vision' of row 2 has NaN or infinite"),
    (_with('text', _at(np.nan)), "'text' of row 2 has NaN or infinite"),
  ],
)
def test_malformed_file_is_named(tmp_path, change, message):
  splits = _splits()
  change(splits)
  with pytest.raises(DataError, match=rf'mosi_data\.pkl: .*{message}'):
    _load(tmp_path, splits)


def test_absent_truncated_and_hostile_files(tmp_path):
  with pytest.raises(DataError, match=r'mosei_senti_data\.pkl(.|\n)*Expected layout'):
    MultiBench().load(tmp_path)
  path = tmp_path / FILE
  path.write_bytes(pickle.dumps(_splits())[:-1000])
  with pytest.raises(DataError, match='truncated'):
    MultiBench(file=FILE).load(tmp_path)
  path.write_bytes(b"cos\nsystem\n(S'touch marker'\ntR.")
  with pytest.raises(DataError, match=r'os\.system'):
    MultiBench(file=FILE).load(tmp_path)
  with pytest.raises(DataError, match="no dict 'train'"):
    _load(tmp_path, [1, 2])


@pytest.mark.parametrize(
  'options',
  [{'file': 'x.pkl'}, {'padding': 'none'}, {'label': 'seven'}, {'max_length': 0}],
)
def test_unknown_option(options):
  (name,) = options
  with pytest.raises(ValueError, match=f'{name}='):
    MultiBench(**options)


@pytest.mark.parametrize('label', ['real', 'binary'])
@pytest.mark.parametrize('file', ['mosi_data.pkl', 'humor.pkl'])
def test_stand_in_fits_the_specification(tmp_path, file, label):
  source = MultiBench(file=file, label=label)
  source.write_stand_in(tmp_path, seed=0)
  spec = source.spec(tmp_path)
  assert source.files(tmp_path) == [tmp_path / file]
  splits = source.load(tmp_path)
  assert set(splits) == {'train', 'valid', 'test'}
  assert (spec.num_outputs, len(spec.class_names)) == (
    (1, 0) if label == 'real' else (2, 2)
  )
  for split in splits.values():
    assert split.label.dtype == (np.float32 if label == 'real' else np.int32)
    assert len(np.unique(split.label)) >= 2
    for name, modality in spec.modalities.items():
      assert modality.sequence
      steps = split.inputs[name]['steps']
      assert steps.shape == (len(split), *modality.shape)
      length = split.inputs[name]['length']
      beyond = np.arange(50) >= length[:, None]
      assert not steps[beyond].any()
      assert steps[~beyond].any()
  ids = np.concatenate([split.ids for split in splits.values()])
  assert len(set(ids)) == len(ids) == 300 - 5  # Five have no text.


def test_stand_in_is_a_function_of_the_seed(tmp_path):
  source = MultiBench(file=FILE)
  written = []
  for name, seed in (('a', 0), ('b', 0), ('c', 1)):
    source.write_stand_in(tmp_path / name, seed)
    written.append((tmp_path / name / FILE).read_bytes())
  assert written[0] == written[1] != written[2]


def test_stand_in_can_be_learned_and_no_modality_tells_all(tmp_path):
  source = MultiBench(file=FILE)
  source.write_stand_in(tmp_path, seed=0)
  splits = source.load(tmp_path)
  explained = {}
  for name in WIDTHS:
    mean = {
      part: split.inputs[name]['steps'].sum(1) / split.inputs[name]['length'][:, None]
      for part, split in splits.items()
    }
    gram = mean['train'].T @ mean['train'] + 3 * np.eye(WIDTHS[name])
    weights = np.linalg.solve(gram, mean['train'].T @ splits['train'].label)
    error = splits['test'].label - mean['test'] @ weights
    explained[name] = 1 - np.mean(error**2) / np.var(splits['test'].label)
  assert all(0.05 < share < 0.95 for share in explained.values()), explained
  assert explained['text'] == max(explained.values())
