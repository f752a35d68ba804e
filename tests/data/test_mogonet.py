"""MOGONET's tables: the real ROSMAP, and everything that can be wrong with them."""

import numpy as np
import pytest

from jdyn.data.dataset import DataError
from jdyn.data.load import load
from jdyn.data.sources.mogonet import Brca, Rosmap


@pytest.fixture(scope='module')
def real(data_dir):
  root = data_dir / 'rosmap'
  if not root.is_dir():
    pytest.skip(f'real data: no folder {root}')
  return root


def test_real_rosmap(real, tmp_path):
  dataset = load(Rosmap(), str(real), tmp_path)
  train, valid, test = (dataset.splits[name] for name in ('train', 'valid', 'test'))
  assert (len(train), len(valid), len(test)) == (196, 49, 106)
  assert {m: s.shape for m, s in dataset.spec.modalities.items()} == {
    'mrna': (200,),
    'methylation': (200,),
    'mirna': (200,),
  }
  np.testing.assert_array_equal(np.bincount(test.label), [51, 55])
  counts = np.bincount(train.label) + np.bincount(valid.label)
  np.testing.assert_array_equal(counts, [118, 127])
  for seed in range(5):
    valid = Rosmap(split_seed=seed).load(real)['valid']
    np.testing.assert_allclose(np.bincount(valid.label), [118 / 5, 127 / 5], atol=1)


def test_real_values_are_given_as_published(real, tmp_path):
  splits = load(Rosmap(), str(real), tmp_path).splits
  files = {'mrna': 1, 'methylation': 2, 'mirna': 3}
  for name, part in (('train', 'tr'), ('valid', 'tr'), ('test', 'te')):
    split = splits[name]
    rows = [int(identity.split('/')[1]) for identity in split.ids]
    labels = (real / f'labels_{part}.csv').read_text().splitlines()
    assert split.label.tolist() == [int(float(labels[row])) for row in rows]
    for view, number in files.items():
      lines = (real / f'{number}_{part}.csv').read_text().splitlines()
      table = [[float(cell) for cell in lines[row].split(',')] for row in rows]
      np.testing.assert_array_equal(split.inputs[view], np.float32(table))


@pytest.mark.parametrize('scaling', ['train', 'train_file'])
def test_scaling_is_by_the_range_of_what_is_seen(tmp_path, scaling):
  Rosmap().write_stand_in(tmp_path, 0)
  path = tmp_path / '2_tr.csv'  # With a constant column.
  table = np.loadtxt(path, delimiter=',')
  table[:, 7] = 0.25
  np.savetxt(path, table, delimiter=',')
  plain, scaled = (Rosmap(scaling=s).load(tmp_path) for s in ('published', scaling))
  for view in ('mrna', 'methylation', 'mirna'):
    seen = [plain['train'].inputs[view]]
    if scaling == 'train_file':
      seen.append(plain['valid'].inputs[view])
    low, high = np.concatenate(seen).min(0), np.concatenate(seen).max(0)
    for name, split in plain.items():
      want = (split.inputs[view] - low) / np.where(high > low, high - low, 1)
      got = scaled[name].inputs[view]
      assert got.dtype == np.float32
      np.testing.assert_allclose(got, want, rtol=1e-6)
  assert scaled['test'].inputs['mrna'].max() > 1  # Not clipped.
  assert (scaled['train'].inputs['methylation'][:, 7] == 0).all()


def test_unknown_scaling_is_refused():
  with pytest.raises(DataError, match="scaling='max'; expected one of"):
    Rosmap(scaling='max')


def test_brca_is_the_same_reader_with_other_classes(tmp_path):
  dataset = load(Brca(), '', tmp_path)
  assert dataset.spec.name == 'brca'
  assert dataset.spec.num_outputs == 5
  assert dataset.spec.modalities['mirna'].shape == (503,)
  Rosmap().write_stand_in(tmp_path, 0)
  (tmp_path / 'labels_te.csv').write_text('\n'.join('4' * 60))
  with pytest.raises(DataError, match='from 0 to 1'):
    Rosmap().load(tmp_path)
  Brca().load(tmp_path)


@pytest.fixture
def root(tmp_path):
  Rosmap().write_stand_in(tmp_path, 0)
  return tmp_path


@pytest.mark.parametrize(
  ('file', 'old', 'new', 'message'),
  [
    ('labels_tr', '0.0', '2.0', 'labels_tr.csv: row .* is 2.0'),
    ('labels_tr', '0.0', '0.5', 'labels_tr.csv: row .* is 0.5'),
    ('labels_tr', '0.000000000000000000e+00', 'nan', 'labels_tr.csv: row .* is nan'),
    ('labels_te', '\n', ',0\n', 'labels_te.csv: not a table .* columns changed'),
    ('2_te', '0.', 'abc.', '2_te.csv: not a table of numbers .*abc'),
    ('2_te', '\n', ',', '2_te.csv: not a table of numbers .*columns changed'),
    ('3_tr', '0.', 'inf,0.', '3_tr.csv: not a table'),
  ],
)
def test_a_damaged_table_is_named(root, file, old, new, message):
  path = root / f'{file}.csv'
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new, 1))
  with pytest.raises(DataError, match=message):
    load(Rosmap(), str(root), root)


@pytest.mark.parametrize(
  ('text', 'message'),
  [('', 'empty'), ('\n\n', 'empty'), ('0,1\n' * 60, '2 columns instead of 1')],
)
def test_labels_are_one_column(root, text, message):
  (root / 'labels_te.csv').write_text(text)
  with pytest.raises(DataError, match=f'labels_te.csv: {message}'):
    load(Rosmap(), str(root), root)


@pytest.mark.parametrize('file', ['1_te', 'labels_tr'])
def test_a_missing_row_is_named(root, file):
  path = root / f'{file}.csv'
  path.write_text('\n'.join(path.read_text().splitlines()[1:]))
  with pytest.raises(DataError, match=r'rows for the \d+ of labels_t.'):
    load(Rosmap(), str(root), root)


def test_train_and_test_must_have_the_same_columns(root):
  path = root / '2_te.csv'
  lines = path.read_text().splitlines()
  path.write_text('\n'.join(line.partition(',')[2] for line in lines))
  with pytest.raises(DataError, match=r'test, modality methylation: .*\(199,\)'):
    load(Rosmap(), str(root), root)
