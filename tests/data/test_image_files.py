"""Images in files: what is read, how it is resized, and what is refused."""

import contextlib
import struct
import zlib

import cv2
import numpy as np
import pytest

from jdyn.data import image_files
from jdyn.data.dataset import DataError
from jdyn.data.image_files import DEPTH, LABEL, RGB, ImageFiles, read, resize, shape_of

RNG = np.random.default_rng(0)
IMAGES = {
  'rgb': (RGB, RNG.integers(0, 256, (7, 9, 3), dtype=np.uint8)),
  'depth': (DEPTH, RNG.integers(0, 2**16, (7, 9), dtype=np.uint16)),
  'label': (LABEL, RNG.integers(0, 41, (7, 9), dtype=np.uint8)),
}


def _png(height, width, bits=8, color=2):
  """The header of a PNG of any size, with an end and nothing in between."""
  header = b'IHDR' + struct.pack('>IIBBBBB', width, height, bits, color, 0, 0, 0)
  checked = header + struct.pack('>I', zlib.crc32(header))
  end = b'\0\0\0\0IEND\xaeB`\x82'
  return b'\x89PNG\r\n\x1a\n' + struct.pack('>I', 13) + checked + end


@pytest.mark.parametrize('name', IMAGES)
def test_an_image_is_read_as_it_was_written(name, tmp_path):
  kind, image = IMAGES[name]
  path = tmp_path / f'{name}.png'
  image_files.write(path, image)
  again = read(path, kind)
  assert again.dtype == image.dtype
  np.testing.assert_array_equal(again, image)
  assert shape_of(path, kind) == (7, 9)
  stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
  np.testing.assert_array_equal(stored[..., ::-1] if kind is RGB else stored, image)


@pytest.mark.parametrize('order', ['C', 'F'])
def test_a_label_may_be_an_array_file(order, tmp_path):
  image = IMAGES['label'][1]
  np.save(tmp_path / 'label.npy', np.asarray(image, order=order))
  np.testing.assert_array_equal(read(tmp_path / 'label.npy', LABEL), image)
  assert shape_of(tmp_path / 'label.npy', LABEL) == (7, 9)


def test_a_jpeg_is_not_turned_and_may_have_bytes_after_its_end(tmp_path):
  image = np.zeros((16, 40, 3), np.uint8)
  image[:, :20, 0] = 200  # Red on the left.
  path = tmp_path / 'image.jpg'
  image_files.write(path, image)
  content = path.read_bytes()
  # Exif that says: turn a quarter.
  tag = struct.pack('>HHIHH', 0x0112, 3, 1, 6, 0)
  exif = b'Exif\0\0MM\0*\0\0\0\x08\0\x01' + tag + b'\0\0\0\0'
  segment = b'\xff\xe1' + struct.pack('>H', len(exif) + 2) + exif
  path.write_bytes(content[:2] + segment + content[2:] + bytes(100))
  assert shape_of(path, RGB) == (16, 40)
  again = read(path, RGB).astype(int)
  assert np.abs(again - image)[:, [0, -1]].max() < 12


@pytest.mark.parametrize('size', [(7, 9), (14, 18), (3, 4), (5, 20), (11, 2)])
def test_nearest_takes_the_pixel_at_the_floor(size):
  for kind, image in (IMAGES['depth'], IMAGES['label']):
    rows, columns = (
      np.arange(new) * old // new for new, old in zip(size, image.shape, strict=True)
    )
    expected = image[np.ix_(rows, columns)]
    np.testing.assert_array_equal(resize(image, kind, *size), expected)


@pytest.mark.parametrize('size', [(7, 9), (14, 18), (3, 4), (5, 20), (11, 2)])
def test_colours_are_interpolated_between_centres_of_pixels(size):
  image = IMAGES['rgb'][1].astype(np.float64)
  for axis, new in enumerate(size):
    old = image.shape[axis]
    place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.minimum(place.astype(int), old - 2)
    share = np.expand_dims(place - low, [i for i in range(3) if i != axis])
    image = image.take(low, axis) * (1 - share) + image.take(low + 1, axis) * share
  got = resize(IMAGES['rgb'][1], RGB, *size)
  assert np.abs(got - image).max() <= 1  # OpenCV computes with whole numbers.


def test_files_are_indexed_like_an_array(tmp_path):
  images = RNG.integers(0, 256, (9, 4, 6, 3), dtype=np.uint8)
  paths = [tmp_path / f'{i}.png' for i in range(9)]
  for path, image in zip(paths, images, strict=True):
    image_files.write(path, image)
  opened = []

  def load(path):
    opened.append(path)
    return read(path, RGB)

  leaf = ImageFiles(paths, load, (4, 6, 3), np.uint8)
  assert (len(leaf), leaf.shape, leaf.dtype) == (9, images.shape, images.dtype)
  assert not opened
  for rows in (np.array([5, 0, 5]), np.int32([3]), slice(2, 7), slice(-2, None), 4, -1):
    np.testing.assert_array_equal(leaf[rows], images[rows])
  assert leaf[:0].shape == (0, 4, 6, 3)
  opened.clear()
  leaf[np.array([8, 1])]
  assert sorted(opened) == [paths[1], paths[8]]
  np.testing.assert_array_equal(np.asarray(leaf), images)


def test_labels_are_padded_below_and_to_the_right(tmp_path):
  image = IMAGES['label'][1]
  np.save(tmp_path / 'a.npy', image)
  padded = image_files.read_padded_label(tmp_path / 'a.npy', 40, 9, 10)
  np.testing.assert_array_equal(padded[:7, :9], image)
  assert (padded[7:] == 255).all()
  assert (padded[:, 9:] == 255).all()
  highest = int(image.max())
  with pytest.raises(DataError, match=rf'a\.npy: holds the label {highest}; .* to 30'):
    image_files.read_padded_label(tmp_path / 'a.npy', 30, 9, 10)


def _saved(array):
  def write(path):
    with path.open('wb') as file:
      np.save(file, array)

  return write


def _drawn(array):
  return lambda path: path.write_bytes(cv2.imencode('.png', array)[1])


def _changed(name, suffix, change):
  def write(path):
    content = cv2.imencode(
      suffix, np.kron(IMAGES[name][1], np.ones((8, 8, 1), np.uint8))
    )
    path.write_bytes(change(content[1].tobytes()))

  return write


def _flipped(content):
  middle = len(content) // 2
  return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


HUGE = struct.pack('>I4s', 2**31 - 1, b'IDAT') + bytes(99)  # A chunk.
NPY = b'\x93NUMPY\x01\0'
RGB8, GREY8 = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)


@pytest.mark.parametrize(
  ('kind', 'write', 'message'),
  [
    (RGB, lambda path: None, r'cannot be read \(No such file'),
    (RGB, lambda path: path.mkdir(), r'cannot be read \(Is a directory'),
    (RGB, lambda path: path.write_bytes(b''), 'none of their marks'),
    (RGB, lambda path: path.write_bytes(b'GIF89a' + bytes(99)), 'none of their marks'),
    (RGB, lambda path: path.write_bytes(_png(4, 4)[:20]), 'it was cut'),
    (RGB, lambda path: path.write_bytes(_png(4, 4)[:-1]), 'it was cut'),
    (RGB, lambda path: path.write_bytes(_png(4, 4)[:-12] + HUGE), 'it was cut'),
    (RGB, lambda path: path.write_bytes(_png(4, 4, color=5)), 'damaged header'),
    (LABEL, lambda path: path.write_bytes(_png(4, 4, 4, 0)), '4 bits per pixel'),
    (RGB, _changed('rgb', '.png', lambda c: c[: len(c) // 2]), 'it was cut'),
    (RGB, _changed('rgb', '.jpg', lambda c: c[: len(c) // 2]), 'it was cut'),
    (RGB, _changed('rgb', '.jpg', lambda c: c[:100]), 'it was cut'),
    (RGB, lambda path: path.write_bytes(_png(50_000, 50_000)), '50000 by 50000 pixels'),
    (RGB, lambda path: path.write_bytes(_png(0, 4)), '0 by 4 pixels'),
    (RGB, _drawn(RGB8.astype(np.uint16)), 'uint16 with 3 channels; a colour image is'),
    (RGB, _drawn(GREY8), 'uint8 with 1 channels; a colour image is uint8 with 3'),
    (DEPTH, _drawn(GREY8), 'uint8 with 1 channels; a depth image is uint16 with 1'),
    (DEPTH, _drawn(RGB8.astype(np.uint16)), 'uint16 with 3 channels'),
    (LABEL, _drawn(GREY8.astype(np.uint16)), 'uint16 with 1 channels; a label image'),
    (LABEL, _drawn(RGB8), 'uint8 with 3 channels'),
    (LABEL, _saved(GREY8.astype(np.int64)), 'int64 with 1 channels'),
    (LABEL, _saved(GREY8[0]), r'an array of shape \(4,\)'),
    (LABEL, _saved(np.array([[None]])), 'type .object., which is not read'),
    (
      LABEL,
      lambda path: path.write_bytes(b'\x93NUMPY\x01\0\x04\0 {( '),
      'not a complete',
    ),
  ],
)
def test_what_is_no_such_image_is_refused_by_its_header(
  kind, write, message, tmp_path, monkeypatch
):
  path = tmp_path / 'file'
  write(path)
  # Nothing is decoded before the header was found right.
  monkeypatch.delattr(image_files, '_decoded')
  for function in (shape_of, read):
    with pytest.raises(DataError, match=f'{path}: .*{message}'):
      function(path, kind)


def test_damage_inside_is_found_when_it_is_read(tmp_path, capfd):
  path = tmp_path / 'image.png'
  _changed('rgb', '.png', _flipped)(path)
  assert shape_of(path, RGB) == (56, 72)
  with pytest.raises(DataError, match=f'{path}: damaged colour image. Copy'):
    read(path, RGB)
  capfd.readouterr()  # The decoder has its say on standard error.


def test_a_cut_array_file_is_found(tmp_path):
  path = tmp_path / 'label.npy'
  np.save(path, IMAGES['label'][1])
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(DataError, match=r'label\.npy: .*it was cut'):
    shape_of(path, LABEL)


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.npy'])
def test_any_damage_gives_an_image_or_the_one_error(
  suffix, tmp_path, monkeypatch, capfd
):
  monkeypatch.setattr(image_files, 'MAX_PIXELS', 2**12)  # Not to wait for zeros.
  path = tmp_path / f'image{suffix}'
  kind, image = IMAGES['label' if suffix == '.npy' else 'rgb']
  np.save(path, image) if suffix == '.npy' else image_files.write(path, image)
  content = path.read_bytes()
  for _ in range(150):
    damaged = bytearray(content)
    for place in RNG.integers(0, min(200, len(content)), 2):
      damaged[place] = RNG.integers(256)
    path.write_bytes(damaged)
    with contextlib.suppress(DataError):
      assert read(path, kind).dtype == np.uint8
  capfd.readouterr()


def test_the_published_sample(data_dir):
  folder = data_dir / 'rgbd_sample'
  if not folder.is_dir():
    pytest.skip(f'no {folder}')
  rgb = read(folder / 'sample_rgb.png', RGB)
  depth = read(folder / 'sample_depth.png', DEPTH)
  assert rgb.shape == (424, 512, 3)
  assert depth.shape == (424, 512)
  stored = cv2.imread(str(folder / 'sample_rgb.png'))
  np.testing.assert_array_equal(rgb, stored[..., ::-1])
