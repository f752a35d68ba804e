"""CMU-MOSI's tables: the real ones, and everything that can be wrong with them."""

import csv

import numpy as np
import pytest

from jdyn.data.dataset import DataError
from jdyn.data.load import load
from jdyn.data.sources.mosi import Mosi


@pytest.fixture(scope='module')
def real(data_dir):
  root = data_dir / 'mosi'
  if not root.is_dir():
    pytest.skip(f'real data: no folder {root}')
  return root


def _rows(path):
  with path.open(newline='') as file:
    return list(csv.reader(file))


def _videos(split):
  return {name[: name.rindex('_')] for name in split.ids.tolist()}


@pytest.mark.parametrize('label', ['binary', 'real'])
def test_real_sizes_and_videos(real, tmp_path, label):
  dataset = load(Mosi(label=label), str(real), tmp_path)
  train, valid, test = (dataset.splits[name] for name in ('train', 'valid', 'test'))
  assert (len(train) + len(valid), len(test)) == (1447, 752)
  assert len(_videos(train)) + len(_videos(valid)) == 62
  assert len(_videos(valid)) == 9
  assert len(_videos(test)) == 31
  assert not _videos(train) & _videos(valid)
  assert not (_videos(train) | _videos(valid)) & _videos(test)
  assert dataset.spec.task == ('multiclass' if label == 'binary' else 'regression')
  assert dataset.origin == 'real'
  assert ('labels/dev.tsv' in dataset.hashes) == (label == 'real')


def test_real_features_and_labels_belong_to_their_utterance(real, tmp_path):
  """Each number is looked up again, from the id, with nothing but the csv module."""
  transcripts = _rows(real / 'features' / 'transcripts.csv')
  row_of = {row[0]: number for number, row in enumerate(transcripts)}
  splits = load(Mosi(), str(real), tmp_path).splits
  values = load(Mosi(label='real'), str(real), tmp_path).splits
  stated = {}
  for part in ('train', 'dev', 'test'):
    for line in (real / 'labels' / f'{part}.tsv').read_text().splitlines()[1:]:
      text, value = line.split('\t')
      stated.setdefault(text.strip(), []).append(float(value))
  joined = 0
  for name, part in (('train', 'train'), ('valid', 'train'), ('test', 'test')):
    tables = {
      modality: _rows(real / 'features' / f'{modality}_{part}0.csv')
      for modality in ('text', 'audio', 'video')
    }
    numbers = [int(row[0]) for row in _rows(real / 'features' / f'text_{part}.csv')]
    place = {number: position for position, number in enumerate(numbers)}
    split = splits[name]
    for i, utterance in enumerate(split.ids.tolist()):
      transcript = transcripts[row_of[utterance]]
      position = place[row_of[utterance]]
      assert split.label[i] == int(transcript[3])
      for modality, table in tables.items():
        row = [float(cell) for cell in table[position]]
        assert row[-1] == split.label[i]
        np.testing.assert_array_equal(split.inputs[modality][i], np.float32(row[:-1]))
      real_value = values[name].label[i]
      assert values[name].ids[i] == utterance
      assert np.isclose(stated[transcript[1].strip()], real_value, atol=1e-6).any()
      assert (real_value >= 0) == split.label[i]
      joined += 1
  assert joined == 2199


def test_real_ambiguous_texts_are_joined_in_order(real, tmp_path):
  """The order follows from their neighbours in the label files.

  Those list the utterances of a video in an order that all videos share, for
  example 24, 25, 26, 27, 20: there -1.0 stands at 24, -0.6 at 25, -2.6 at 27, and
  -3.0 between 35 and 33.
  """
  splits = load(Mosi(label='real'), str(real), tmp_path).splits
  values = {
    name: value
    for split in splits.values()
    for name, value in zip(split.ids.tolist(), split.label.tolist(), strict=True)
  }
  expected = {
    'bOL9jKpeJRs_24': -1.0,
    'bOL9jKpeJRs_25': -0.6,
    'd6hH302o4v8_27': -2.6,
    'd6hH302o4v8_34': -3.0,
  }
  for name, value in expected.items():
    assert values[name] == pytest.approx(value)


def test_the_test_split_does_not_depend_on_the_options(real, tmp_path):
  first = load(Mosi(), str(real), tmp_path).splits
  other = load(Mosi(valid_fraction=0.3, split_seed=1), str(real), tmp_path).splits
  np.testing.assert_array_equal(first['test'].ids, other['test'].ids)
  assert set(first['valid'].ids) != set(other['valid'].ids)


def test_an_unknown_label_is_refused():
  with pytest.raises(ValueError, match="label='happy'; expected 'binary' or 'real'"):
    Mosi(label='happy')


@pytest.fixture
def root(tmp_path):
  Mosi().write_stand_in(tmp_path, 0)
  return tmp_path


def _set(path, row, column, value):
  rows = _rows(path)
  rows[row][column] = value
  with path.open('w', newline='') as file:
    csv.writer(file).writerows(rows)


def _flip(path, row, column):
  _set(path, row, column, str(1 - int(float(_rows(path)[row][column]))))


def _repeat_first(path):
  """Lets another row with the label of the first claim to be the first."""
  rows = _rows(path)
  label = [row[-1] for row in _rows(path.with_name('text_train0.csv'))]
  other = label.index(label[0], 1)
  _set(path.with_name('text_train0.csv'), other, slice(100), rows[0][1:])
  _set(path, other, slice(None), rows[0])


@pytest.mark.parametrize(
  ('file', 'damage', 'message'),
  [
    ('audio_train0', lambda p: _flip(p, 3, -1), 'audio_train0.csv and text_train0.csv'),
    ('audio_train0', lambda p: _set(p, 3, -1, '2'), 'audio_train0.csv: row 3 is 2.0'),
    ('video_test0', lambda p: _set(p, 3, 5, 'x'), "video_test0.csv: .*'x'"),
    ('video_test0', lambda p: _set(p, 3, 5, 'nan'), 'video: 1 of 144 .* clip24_4'),
    (
      'text_train',
      lambda p: _set(p, 3, 5, '9'),
      'text_train.csv: its features are not',
    ),
    ('text_train', lambda p: _set(p, 3, 0, '432'), 'row 3 is 432.0.*0 to 431'),
    ('text_train', lambda p: _set(p, 3, 0, '0.5'), 'row 3 is 0.5'),
    ('text_train', lambda p: _repeat_first(p), 'clip00_1 occurs more than once'),
    ('text_test', lambda p: _set(p, 5, 0, '2'), 'video clip00 is in train and in test'),
    ('transcripts', lambda p: _flip(p, 0, 3), 'transcripts.csv .* that of clip00_1'),
    ('transcripts', lambda p: _set(p, 0, 3, '2'), 'transcripts.csv: row 0 is'),
    (
      'transcripts',
      lambda p: _set(p, 0, 0, 'clip'),
      'row 0 is .*expected video_number',
    ),
  ],
)
def test_tables_that_are_wrong_or_disagree(root, file, damage, message):
  load(Mosi(), str(root), root)
  if file == 'text_test':  # The label must agree for the video to be looked at.
    labels = [row[3] for row in _rows(root / 'features' / 'transcripts.csv')]
    label = _rows(root / 'features' / 'text_test0.csv')[5][-1]
    assert labels[2] == str(int(float(label)))
  damage(root / 'features' / f'{file}.csv')
  with pytest.raises(DataError, match=message):
    load(Mosi(), str(root), root)


def test_rows_are_counted_from_zero(root):
  """A table that counts from one is noticed by its labels."""
  path = root / 'features' / 'text_train.csv'
  rows = _rows(path)
  with path.open('w', newline='') as file:
    csv.writer(file).writerows([[int(row[0]) + 1, *row[1:]] for row in rows])
  with pytest.raises(DataError, match='counted from zero'):
    Mosi().load(root)


@pytest.mark.parametrize(
  ('old', 'new', 'message'),
  [
    (b'text\tlabel', b'label\ttext', "first line is 'label.ttext'"),
    (b'SAID IN CLIP00 TURN 3', b'SAID IN CLIP99', 'no label .* utterance clip00_3'),
    (b'TURN 3 \t', b'TURN 3 \tx', 'train.tsv: line 4 is'),
    (b'TURN 3 \t', b'TURN 3  ', 'train.tsv: line 4 is'),
    (b'TURN 3 \t', b'TURN 3 \xff\t', 'train.tsv: not text'),
  ],
)
def test_real_labels_that_are_wrong(root, old, new, message):
  path = root / 'labels' / 'train.tsv'
  load(Mosi(label='real'), str(root), root)
  path.write_bytes(path.read_bytes().replace(old, new, 1))
  with pytest.raises(DataError, match=message):
    load(Mosi(label='real'), str(root), root)
  load(Mosi(), str(root), root)


def test_real_labels_out_of_range_are_refused(root):
  path = root / 'labels' / 'train.tsv'
  lines = path.read_text().splitlines()
  for label in ('3.1', '-3.1', 'nan', 'inf'):
    lines[3] = f'SAID IN CLIP00 TURN 3\t{label}'
    path.write_text('\n'.join(lines))
    with pytest.raises(DataError, match=r'train.tsv: line 4 .* from -3 to 3'):
      Mosi(label='real').load(root)


def test_a_video_may_have_underscores_in_its_name(root):
  path = root / 'features' / 'transcripts.csv'
  path.write_text(path.read_text().replace('clip', 'my_clip'))
  splits = load(Mosi(), str(root), root).splits
  assert len(_videos(splits['train'])) == 20
  assert len(_videos(splits['valid'])) == 4


def test_real_labels_of_another_sign_are_refused(root):
  path = root / 'labels' / 'train.tsv'
  lines = path.read_text().splitlines()
  texts = [line.split('\t')[0] for line in lines]
  label = float(lines[3].split('\t')[1])
  lines[3] = f'{texts[3]}\t{-1.0 if label >= 0 else 1.0}'
  path.write_text('\n'.join(lines))
  with pytest.raises(DataError, match=r'utterance clip00_3 has the label .*1\.0'):
    Mosi(label='real').load(root)
