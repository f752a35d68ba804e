"""fastMRI is sliced right: k-space, labels, splits, table, and bad input."""

import csv
import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from configs import fastmri_i2m2
from jdyn import prepare
from jdyn.data import knee_slices
from jdyn.data import prepare_fastmri as fastmri
from jdyn.data.dataset import DataError
from jdyn.data.load import load
from jdyn.data.sources.fastmri import FastMRI

SHAPE = (16, 10)
NAMES = [f'file{1000000 + i}' for i in range(10)]
WIDTHS = dict(zip(NAMES, [7, 10, 8, 9, 12, 10, 7, 7, 10, 8], strict=True))
WIDE, ABSENT = NAMES[4], 'file2000000'
SLICES = 3
ANNOTATIONS = """\
file,slice,study_level,x,y,width,height,label
{0},0,,1,2,3,4,Meniscus Tear
{0},0,,5,6,7,8,Meniscus Tear
{0},0,,5,6,7,8,Cartilage - Partial Thickness loss/defect
{0},2,,5,6,7,8,ACL High Grade Sprain
{1},1,Yes,,,,,"Bone- Fracture/Contusion/dislocation"
{2},1,Yes,,,,,cartilage
"""


def _volume(path, width, seed, rows=SHAPE[0], **change):
  rng = np.random.default_rng(seed)
  kspace = rng.standard_normal((SLICES, rows, width, 2)).astype('f4').view('c8')[..., 0]
  kspace[:, :, 0] = 0  # A column that was not measured.
  images = {
    f'reconstruction_{kind}': rng.random((SLICES, 8, 8), np.float32)
    for kind in ('esc', 'rss')
  }
  arrays = {'kspace': kspace, 'ismrmrd_header': np.bytes_(b'<xml/>')} | images | change
  with h5py.File(path, 'w') as file:
    for name, array in arrays.items():
      if array is not None:
        file[name] = array
    file.attrs['acquisition'] = 'CORPD_FBK'


@pytest.fixture
def parts(tmp_path):
  """Volumes, most in the training folder, and the two tables of fastMRI+."""
  volumes = tmp_path / 'volumes'
  for i, (name, width) in enumerate(WIDTHS.items()):
    folder = volumes / ('singlecoil_val' if i % 4 == 3 else 'singlecoil_train')
    folder.mkdir(parents=True, exist_ok=True)
    _volume(folder / f'{name}.h5', width, i)
  _volume(volumes / 'singlecoil_train' / 'file3000000.h5', 9, 99)  # Not listed.
  annotations, files = tmp_path / 'knee.csv', tmp_path / 'knee_file_list.csv'
  annotations.write_text(ANNOTATIONS.format(*NAMES), encoding='utf-8')
  files.write_text('\n'.join([*NAMES[::-1], ABSENT, '']), encoding='utf-8')
  return volumes, annotations, files


@pytest.fixture
def built(parts, tmp_path):
  out = tmp_path / 'knee'
  counts = fastmri.prepare_fastmri(*parts, out, kspace_shape=SHAPE)
  assert counts == {
    'volumes': 9,
    'slices': 27,
    'absent': 1,
    'wide': 1,
    'unlisted': 1,
  }
  return out


def _read(path):
  with h5py.File(path) as file:
    return {name: file[name][()] for name in file}


def _table(out):
  with (out / 'metadata_knee.csv').open(newline='') as file:
    return list(csv.DictReader(file))


def test_the_layout(built):
  names = sorted(set(NAMES) - {WIDE})
  assert sorted(os.listdir(built)) == [*names, 'manifest.json', 'metadata_knee.csv']
  for name in names:
    assert sorted(os.listdir(built / name)) == [
      f'knee_singlecoil_{name}_{number}.h5' for number in range(SLICES)
    ]
  manifest = json.loads((built / 'manifest.json').read_text())
  assert (manifest['wide'], manifest['absent']) == ([WIDE], [ABSENT])
  assert set(manifest['sources']) == {'knee.csv', 'knee_file_list.csv'}


@pytest.mark.parametrize('name', [NAMES[0], NAMES[1], NAMES[2], NAMES[3]])
def test_slices_are_filled_to_one_shape(parts, built, name):
  (path,) = parts[0].rglob(f'{name}.h5')
  volume, width = _read(path), WIDTHS[name]
  for number in range(SLICES):
    found = _read(built / name / f'knee_singlecoil_{name}_{number}.h5')
    left = (SHAPE[1] - width) // 2
    want = np.pad(volume['kspace'][number], ((0, 0), (left, SHAPE[1] - width - left)))
    np.testing.assert_array_equal(found['sc_kspace'], want, strict=True)
    for kind in ('esc', 'rss'):
      np.testing.assert_array_equal(
        found[f'recon_{kind}'], volume[f'reconstruction_{kind}'][number], strict=True
      )
    measured = np.flatnonzero(np.abs(want).sum(axis=0))
    assert found['sampled_indices'].tolist() == [measured[0], measured[-1]]


def test_labels_are_in_the_slices_and_in_the_table(built):
  name = NAMES[0]
  cartilage = 'Cartilage - Partial Thickness loss/defect'
  want = {
    0: ([b'Meniscus Tear', b'Meniscus Tear', cartilage.encode()], [0, 1, 0, 1]),
    1: ([b'None'], [0, 0, 0, 0]),
    2: ([b'ACL High Grade Sprain'], [0, 0, 1, 0]),
  }
  rows = {(row['volume_id'], row['slice_id']): row for row in _table(built)}
  for number, (findings, _) in want.items():
    found = _read(built / name / f'knee_singlecoil_{name}_{number}.h5')['labels']
    assert found.tolist() == findings
  assert rows[name, '0']['labels'] == str([cartilage, 'Meniscus Tear'])
  assert rows[name, '1']['labels'] == '[None]'
  splits = load(FastMRI(image_size=8), str(built), built).splits.values()
  labels = {i: y.tolist() for s in splits for i, y in zip(s.ids, s.label, strict=True)}
  assert len(labels) == 27
  for number, (_, label) in want.items():
    assert labels[f'{name}_{number}'] == label
  assert labels[f'{NAMES[1]}_1'] == [1, 0, 0, 0]
  assert labels[f'{NAMES[2]}_1'] == [0, 0, 0, 1]


def test_the_table_has_the_columns_of_the_original(built):
  row = _table(built)[4]
  name = NAMES[1]
  assert row == {
    '': '4',
    'index': f'knee_knee_singlecoil_{name}_1',
    'volume_id': name,
    'slice_id': '1',
    'labels': "['Bone- Fracture/Contusion/dislocation']",
    'shape': '(16, 10)',
    'dataset': 'knee',
    'data_type': 'original',
    'data_split': row['data_split'],
    'location': f'{name}/knee_singlecoil_{name}_1.h5',
  }


def test_splits_are_of_volumes_and_do_not_hang_on_their_order(built):
  names = sorted([*NAMES, ABSENT])
  train, rest = train_test_split(names, test_size=0.3, random_state=0)
  test, valid = train_test_split(rest, test_size=0.5, random_state=0)
  want = dict.fromkeys(train, 'train_class')
  want |= dict.fromkeys(valid, 'val_class') | dict.fromkeys(test, 'test_class')
  assert {row['volume_id']: row['data_split'] for row in _table(built)} == {
    name: want[name] for name in NAMES if name != WIDE
  }
  assert fastmri.split_volumes(names) == fastmri.split_volumes(names[::-1])
  shares = list(fastmri.split_volumes([f'v{i}' for i in range(1000)]).values())
  assert [shares.count(s) for s in ('train', 'valid', 'test')] == [700, 150, 150]


def test_a_folder_of_the_files_themselves(parts, built, tmp_path):
  flat = tmp_path / 'flat'
  flat.mkdir()
  for path in parts[0].rglob('*.h5'):
    path.rename(flat / path.name)
  again = tmp_path / 'again'
  fastmri.prepare_fastmri(flat, *parts[1:], again, kspace_shape=SHAPE)
  assert (again / 'metadata_knee.csv').read_bytes() == (
    built / 'metadata_knee.csv'
  ).read_bytes()


def test_what_was_prepared_can_be_trained_on(built, train, compile_fast):
  config = fastmri_i2m2.get_config()
  small = dict(widths=(4, 4), blocks=(1, 1), groups=2, pool=2)
  for expert in config.model.experts.values():
    for part in ('encoder', 'head'):
      if part in expert and expert[part].name == 'preact_resnet':
        expert[part].update(small)
  config.epochs = config.steps_per_call = 1
  config.feed = 'host'  # As for files that do not fit into memory.
  dataset = load(FastMRI(image_size=8), str(built), built)
  workdir = train(config, dataset=dataset)
  assert dataset.origin == 'real'
  result = json.loads((workdir / 'stages/main/result.json').read_text())
  assert result['task'] == 'multilabel'
  with np.load(workdir / 'stages/main/predictions_test.npz') as file:
    test = dataset.splits['test']
    assert file['logits'].shape == (1, len(test), 4)
    assert file['ids'].tolist() == test.ids.tolist()


def test_an_existing_folder_is_kept(parts, tmp_path):
  before = sorted(os.listdir(tmp_path))
  with pytest.raises(DataError, match='exists'):
    fastmri.prepare_fastmri(*parts, tmp_path)
  assert sorted(os.listdir(tmp_path)) == before


def test_failure_leaves_nothing(parts, tmp_path):
  before = sorted(os.listdir(tmp_path))

  def stop(_what, done, _total):
    if done == 3:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    fastmri.prepare_fastmri(
      *parts, tmp_path / 'knee', kspace_shape=SHAPE, progress=stop
    )
  assert sorted(os.listdir(tmp_path)) == before


KSPACE = np.ones((SLICES, *SHAPE), np.complex64)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'kspace': None}, 'no dataset kspace'),
    ({'kspace': KSPACE.real}, 'kspace has type float32'),
    ({'kspace': KSPACE[:, 1:]}, r'kspace has shape \(3, 15, 10\)'),
    ({'kspace': 0 * KSPACE}, 'first slice of kspace is zero'),
    ({'reconstruction_rss': None}, 'no dataset reconstruction_rss'),
    ({'reconstruction_esc': np.ones((2, 8, 8), 'f4')}, 'reconstruction_esc has shape'),
  ],
)
def test_a_damaged_volume_is_named(parts, tmp_path, change, message):
  path = parts[0] / 'singlecoil_train' / f'{NAMES[1]}.h5'
  _volume(path, 10, 1, **change)
  with pytest.raises(DataError, match=f'{NAMES[1]}.*{message}'):
    fastmri.prepare_fastmri(*parts, tmp_path / 'knee', kspace_shape=SHAPE)
  assert not (tmp_path / 'knee').exists()


@pytest.mark.parametrize(
  ('part', 'text', 'message'),
  [
    (1, None, 'knee.csv: not a table of comma'),
    (1, 'file,slice\nfile1,2\n', r"knee.csv: no column \['label'\]"),
    (1, '', 'knee.csv: no column'),
    (1, 'file,slice,label\n', 'knee.csv: no rows'),
    (1, 'file,slice,label\nfile1,two,ACL\n', 'knee.csv, line 2: .*two'),
    (1, 'file,slice,label\nfile1,2,\n', 'knee.csv, line 2: .*names no finding'),
    (2, None, 'knee_file_list.csv: not a readable table'),
    (2, 'a\nb\nc\n', 'list.csv: 3 volumes, 3 different'),
    (2, 'a\nb\nc\nd\na\n', 'list.csv: 5 volumes, 4 different'),
    (2, 'a\nb\nc\nd\n', 'no volume of .*list.csv is there'),
  ],
)
def test_a_damaged_table_is_named(parts, tmp_path, part, text, message):
  parts[part].unlink()
  if text is not None:
    parts[part].write_text(text, encoding='utf-8')
  with pytest.raises(DataError, match=message):
    fastmri.prepare_fastmri(*parts, tmp_path / 'knee', kspace_shape=SHAPE)


def test_no_volumes_and_double_ones(parts, tmp_path):
  (tmp_path / 'empty').mkdir()
  with pytest.raises(DataError, match=r'empty: no volumes \*\.h5'):
    fastmri.prepare_fastmri(tmp_path / 'empty', *parts[1:], tmp_path / 'knee')
  name = f'{NAMES[0]}.h5'
  (parts[0] / 'singlecoil_val' / name).write_bytes(b'')
  with pytest.raises(DataError, match='a volume is in both'):
    fastmri.prepare_fastmri(*parts, tmp_path / 'knee')


def test_the_command(parts, built, tmp_path, capsys, monkeypatch):
  monkeypatch.setitem(fastmri.prepare_fastmri.__kwdefaults__, 'kspace_shape', SHAPE)
  volumes, annotations, files = map(str, parts)
  flags = ['--volumes', volumes, '--annotations', annotations, '--files', files]
  out = tmp_path / 'out'
  prepare.main(['fastmri', *flags, '--out', str(out)])
  assert (out / knee_slices.METADATA).read_bytes() == (
    built / knee_slices.METADATA
  ).read_bytes()
  told = capsys.readouterr().err
  assert 'volumes 10/10' in told
  assert '27 slices of 9 volumes; left out: 1 listed but absent, 1 too wide' in told
  with pytest.raises(SystemExit) as stop:
    prepare.main(['fastmri', *flags, '--out', str(out)])
  assert stop.value.code == 1
  assert 'error: ' in capsys.readouterr().err


def test_help_imports_nothing_heavy():
  code = (
    'import sys; from jdyn import prepare\n'
    'try: prepare.main(["fastmri", "--help"])\n'
    'except SystemExit: print("numpy" in sys.modules, "jax" in sys.modules)'
  )
  run = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert run.stdout.endswith('False False\n')
