"""fastMRI slices: the image in the k-space, the labels, and what can be wrong."""

import csv

import h5py
import numpy as np
import pytest
from scipy import fft

from jdyn.data import knee_slices
from jdyn.data.dataset import DataError
from jdyn.data.load import load
from jdyn.data.pipeline import assemble, nbytes
from jdyn.data.sources.fastmri import FastMRI

SIZE = 8
SPLITS = {'train': ['a', 'b'], 'valid': ['c'], 'test': ['d']}
FINDINGS = [(), ('Meniscus Tear', 'Joint Effusion'), ('ACL Low Grade sprain',)]


def _kspace(seed, shape=(20, 13)):
  parts = np.random.default_rng(seed).standard_normal((*shape, 2)).astype(np.float32)
  return parts.view(np.complex64)[..., 0]


@pytest.fixture
def root(tmp_path):
  """Four volumes of three slices, and one more that is in no split."""
  root = tmp_path / 'knee'
  slices = [
    knee_slices.Slice(volume, number, findings, split)
    for split, volumes in SPLITS.items()
    for volume in volumes
    for number, findings in enumerate(FINDINGS)
  ]
  for seed, row in enumerate(slices):
    (root / row.volume).mkdir(parents=True, exist_ok=True)
    arrays = {'sc_kspace': _kspace(seed), 'recon_rss': np.ones((4, 4), np.float32)}
    knee_slices.write_slice(root / row.path, arrays, row.findings)
  unused = knee_slices.Slice('e', 0, (), '')
  knee_slices.write_table(root / 'metadata_knee.csv', [*slices, unused])
  return root


def _slice(root, volume='a', number=0):
  return root / volume / f'knee_singlecoil_{volume}_{number}.h5'


def _edit_table(root, change):
  path = root / 'metadata_knee.csv'
  with path.open(newline='') as file:
    rows = list(csv.reader(file))
  change(rows)
  with path.open('w', newline='') as file:
    csv.writer(file).writerows(rows)


def _image(kspace, size):
  """The definition, by SciPy: the whole image, then its centre."""
  image = fft.fftshift(fft.ifft2(fft.ifftshift(kspace.astype('c16')), norm='ortho'))
  top, left = ((n - size) // 2 for n in image.shape)
  return image[top : top + size, left : left + size]


@pytest.mark.parametrize('size', [SIZE, 7, 13])
def test_views_are_those_of_the_centre_of_the_image(root, size):
  dataset = load(FastMRI(image_size=size), str(root), root)
  seed = 0
  for name, volumes in SPLITS.items():
    split = dataset.splits[name]
    assert split.ids.tolist() == [f'{v}_{n}' for v in volumes for n in range(3)]
    batch = assemble(split, np.arange(len(split)))['inputs']
    for row in range(len(split)):
      image = _image(_kspace(seed), size)
      magnitude, phase = (batch[view][row, ..., 0] for view in ('magnitude', 'phase'))
      np.testing.assert_allclose(magnitude, np.abs(image), atol=1e-6)
      turned = np.angle(np.exp(1j * phase) / image)
      np.testing.assert_allclose(np.abs(image) * turned, 0, atol=1e-6)
      seed += 1


def test_a_point_in_the_image_comes_back_in_its_place():
  image = np.zeros((6, 9), np.complex64)
  image[3, 4] = 2j
  kspace = fft.fftshift(fft.fft2(fft.ifftshift(image), norm='ortho'))
  for axis in (0, 1):
    kspace = knee_slices._inverse(kspace, axis)
  np.testing.assert_allclose(kspace, image, atol=1e-6)
  cropped = knee_slices._centre(knee_slices._centre(kspace, 0, 4), 1, 4)
  assert np.argwhere(cropped.imag > 1).tolist() == [[2, 2]]


def test_double_precision_is_read_as_single(root):
  before = knee_slices.read_image(_slice(root), SIZE)
  with h5py.File(_slice(root), 'r+') as file:
    del file['sc_kspace']
    file['sc_kspace'] = _kspace(0).astype(np.complex128)
  after = knee_slices.read_image(_slice(root), SIZE)
  assert before.dtype == after.dtype == np.complex64
  np.testing.assert_array_equal(before, after)


def test_slices_are_read_when_asked_for_and_once_for_both_views(root, monkeypatch):
  opened = []
  read = knee_slices.read_image
  monkeypatch.setattr(
    'jdyn.data.sources.fastmri.read_image',
    lambda path, size: opened.append(path.name) or read(path, size),
  )
  train = FastMRI(image_size=SIZE).load(root)['train']
  assert not opened
  assemble(train, np.array([4, 1]))
  assert opened == ['knee_singlecoil_b_1.h5', 'knee_singlecoil_a_1.h5']
  assert nbytes(train) == 6 * 2 * SIZE * SIZE * 4


def test_a_view_is_read_like_an_array(root):
  view = FastMRI(image_size=SIZE).load(root)['train'].inputs['phase']
  whole = np.asarray(view)
  assert whole.shape == view.shape == (6, SIZE, SIZE, 1)
  assert whole.dtype == view.dtype == np.float32
  np.testing.assert_array_equal(view[1:3], whole[1:3])
  np.testing.assert_array_equal(view[np.array([5, 0, 5])], whole[[5, 0, 5]])
  assert view[:0].shape == (0, SIZE, SIZE, 1)


@pytest.mark.parametrize(
  ('cell', 'want'),
  [
    ('[None]', [0, 0, 0, 0]),
    ("['None']", [0, 0, 0, 0]),
    ("['None', 'Meniscus Tear']", [0, 0, 0, 0]),
    ("['Meniscus Tear']", [0, 1, 0, 0]),
    ("['Meniscus Tear', 'Meniscus Tear']", [0, 1, 0, 0]),
    ("['ACL High Grade Sprain', 'Joint Effusion']", [1, 0, 1, 0]),
    ("['Cartilage - Full Thickness loss/defect']", [0, 0, 0, 1]),
    ('["cartilage", "ACL Low Grade sprain"]', [0, 0, 1, 1]),
    ("['Displaced Meniscal Tissue']", [1, 0, 0, 0]),
    ("['Periarticular cysts','Ligament - MCL Low Grade sprain']", [1, 0, 0, 0]),
  ],
)
def test_labels(root, cell, want):
  def change(rows):
    rows[2][4] = cell

  _edit_table(root, change)
  split = FastMRI(image_size=SIZE).load(root)['train']
  assert split.label[1].tolist() == want
  assert split.label[2].tolist() == [0, 0, 1, 0]


def test_the_location_is_not_followed(root, tmp_path):
  before = FastMRI(image_size=SIZE).load(root)['train'].inputs['phase'][:]

  def change(rows):
    for row in rows[1:]:
      row[9] = '/etc/passwd'

  _edit_table(root, change)
  after = FastMRI(image_size=SIZE).load(root)['train'].inputs['phase'][:]
  np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
  ('column', 'cell', 'message'),
  [
    (2, '../a', r"line 2: volume_id is '\.\./a'"),
    (2, '', "line 2: volume_id is ''"),
    (3, '-1', "line 2: slice_id is '-1'"),
    (3, '1', 'id a_1 occurs more than once'),
    (4, 'Meniscus Tear', "line 2: labels is 'Meniscus Tear'"),
    (8, 'train', "line 2: data_split is 'train'"),
    (8, 'test_class', 'volume a has slices in test and in train'),
  ],
)
def test_a_wrong_cell_is_named(root, column, cell, message):
  def change(rows):
    rows[1][column] = cell

  _edit_table(root, change)
  with pytest.raises(DataError, match=message):
    load(FastMRI(image_size=SIZE), str(root), root)


def _drop_column(rows):
  for row in rows:
    del row[8]


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda rows: rows.clear(), 'no column'),
    (_drop_column, r"no column \['data_split'\]"),
    (lambda rows: rows[3].__delitem__(slice(4, None)), "line 4: labels is ''"),
    (lambda rows: rows.__delitem__(slice(10, None)), r"data_split \['test_class'\]"),
    (lambda rows: rows[1].__setitem__(2, 'z'), 'Missing .*knee_singlecoil_z_0.h5'),
  ],
)
def test_a_wrong_table_is_named(root, change, message):
  _edit_table(root, change)
  with pytest.raises(DataError, match=message):
    load(FastMRI(image_size=SIZE), str(root), root)


@pytest.mark.parametrize(
  ('kspace', 'message'),
  [
    (None, 'no dataset sc_kspace'),
    (np.ones((20, 13), np.float32), 'sc_kspace has type float32'),
    (np.ones((1, 20, 13), np.complex64), 'sc_kspace has shape'),
    (np.ones((20, 7), np.complex64), r'shape \(20, 7\) has no image of 8 by 8'),
    (np.full((20, 13), np.nan, np.complex64), 'sc_kspace holds NaN or infinity'),
  ],
)
def test_a_wrong_slice_is_named(root, kspace, message):
  with h5py.File(_slice(root, 'c', 1), 'r+') as file:
    del file['sc_kspace']
    if kspace is not None:
      file['sc_kspace'] = kspace
  with pytest.raises(DataError, match=f'knee_singlecoil_c_1.h5.*{message}'):
    load(FastMRI(image_size=SIZE), str(root), root)


def test_training_counts_both_classes_of_a_label_alike(root):
  dataset = load(FastMRI(image_size=SIZE), str(root), root)
  weights = np.array(dataset.spec.class_weights)
  label = dataset.splits['train'].label
  for k in range(3):
    each = weights[k, label[:, k].astype(int)]
    assert each.mean() == pytest.approx(1)
    assert each[label[:, k] == 1].sum() == pytest.approx(each[label[:, k] == 0].sum())
  assert weights[3].tolist() == [1, 1]  # Nobody has it.
  plain = FastMRI(image_size=SIZE, balance='none').spec(root)
  assert plain.class_weights == ()


def test_an_unknown_balance_is_refused():
  with pytest.raises(ValueError, match="balance='sampler'"):
    FastMRI(balance='sampler')


def test_an_image_has_pixels():
  with pytest.raises(ValueError, match='image_size=0'):
    FastMRI(image_size=0)
