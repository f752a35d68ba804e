"""Images in files: colour, depth and labels, one file each, read when asked for.

PNG and JPEG are decoded by OpenCV, `.npy` by NumPy. The header is read before
anything is decoded, so that a small file cannot make memory overflow, and a file that
was cut is found without decoding it: `shape_of` is cheap enough for a whole dataset.
Decoding takes about six bytes per pixel, or twelve for a progressive JPEG, whose
coefficients are kept, and an image has at most `MAX_PIXELS`.
"""

import dataclasses
import io
import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jdyn.data import npy
from jdyn.data.dataset import DataError

MAX_PIXELS = 2**26
"""Of an image that is read: eight thousand by eight thousand."""

OUTSIDE = 255
"""Label of what pads images of different sizes to one shape."""

_THREADS = 4  # Per call; several calls run at once where batches are prefetched.
_MAX_SCANS = 100  # Encoders write about ten, and each takes as long as a whole image.
_TAIL = 4096  # Bytes in which a JPEG must end; cameras append a few.
_PNG = b'\x89PNG\r\n\x1a\n'
_PNG_OVERHEAD = 2**12  # Bytes; the checksums of small chunks, for instance.
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # By colour type; 3 is a palette.
_JPEG, _JPEG_SCAN, _JPEG_END = b'\xff\xd8', 0xDA, b'\xff\xd9'
_JPEG_SCANS = b'\xff\xda'
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


@dataclasses.dataclass(frozen=True)
class Kind:
  """What an image shows, and so how it is stored and resized.

  Attributes:
    name: for errors.
    dtype: of the pixels.
    color: three channels, red first; otherwise none.
  """

  name: str
  dtype: type[np.generic]
  color: bool = False


RGB = Kind('colour image', np.uint8, color=True)
"""Read as `u8[H, W, 3]`; resized between pixels."""

DEPTH = Kind('depth image', np.uint16)
"""Read as `u16[H, W]`; resized to the nearest pixel."""

LABEL = Kind('label image', np.uint8)
"""Read as `u8[H, W]`; resized to the nearest pixel."""


def shape_of(path: Path, kind: Kind) -> tuple[int, int]:
  """Height and width of an image that is complete and of the right kind.

  Only the header is read, and whether the end is there.

  Raises:
    DataError: if the file is missing, damaged, cut, of another kind, or too large.
  """
  try:
    with path.open('rb') as file:
      return _checked(path, file, kind)
  except OSError as error:
    raise _missing(path, error) from error


def read(path: Path, kind: Kind) -> np.ndarray:
  """One image: `u8[H, W, 3]`, `u16[H, W]` or `u8[H, W]`, of any size.

  An orientation that a camera noted beside the pixels does not turn the image, since
  depth and labels would not turn with it.

  Raises:
    DataError: if the file is missing, damaged, cut, of another kind, or too large.
  """
  try:
    content = path.read_bytes()
  except OSError as error:
    raise _missing(path, error) from error
  shape = _checked(path, io.BytesIO(content), kind)
  if content.startswith(_JPEG) and content.count(_JPEG_SCANS) > _MAX_SCANS:
    raise DataError(
      f'{path}: a JPEG of more than {_MAX_SCANS} scans, which takes minutes to decode. '
      'Write the image again.'
    )
  image = _decoded(content, kind)
  wanted = (*shape, 3) if kind.color else shape
  if image is None or image.shape != wanted or image.dtype != kind.dtype:
    raise DataError(f'{path}: damaged {kind.name}. Copy the file again.')
  return image


def resize(image: np.ndarray, kind: Kind, height: int, width: int) -> np.ndarray:
  """The image at another size, as ESANet resizes with OpenCV.

  Colour is interpolated between the four pixels around it (centres of pixels are at
  half numbers, and nothing is smoothed before it shrinks). Depth and labels take the
  pixel `floor(i * old / new)`.
  """
  import cv2

  if image.shape[:2] == (height, width):
    return image
  how = cv2.INTER_LINEAR if kind.color else cv2.INTER_NEAREST
  return cv2.resize(image, (width, height), interpolation=how)


def read_resized(path: Path, kind: Kind, height: int, width: int) -> np.ndarray:
  """`read` and `resize`."""
  return resize(read(path, kind), kind, height, width)


def read_label(path: Path, num_classes: int) -> np.ndarray:
  """A label image of its own size, 0 is void: `u8[H, W]`.

  Raises:
    DataError: as `read`; or if a pixel is greater than `num_classes`.
  """
  label = read(path, LABEL)
  if (highest := int(label.max(initial=0))) > num_classes:
    raise DataError(
      f'{path}: holds the label {highest}; they go from 0 (void) to {num_classes}. Is '
      'it a label image of that many classes?'
    )
  return label


def read_padded_label(
  path: Path, num_classes: int, height: int, width: int
) -> np.ndarray:
  """`read_label` with `OUTSIDE` below and to the right: `u8[height, width]`."""
  label = read_label(path, num_classes)
  padded = np.full((height, width), OUTSIDE, label.dtype)
  padded[: label.shape[0], : label.shape[1]] = label
  return padded


def write(path: Path, image: np.ndarray) -> None:
  """Writes an image in the format that the suffix names, `.png` or `.jpg`.

  Args:
    path: its folder must exist.
    image: `u8[H, W, 3]`, red first, or `u8[H, W]`, or, as PNG, `u16[H, W]`.
  """
  import cv2

  if image.ndim == 3:
    image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
  _, content = cv2.imencode(path.suffix, image)
  path.write_bytes(content)


class ImageFiles:
  """One array of many files: `[N, *shape]`, indexed like a memory map.

  Attributes:
    shape: of the array.
    dtype: of the array.
  """

  def __init__(
    self,
    paths: Sequence[Path],
    load: Callable[[Path], np.ndarray],
    shape: tuple[int, ...],
    dtype: Any,
  ):
    """Reads nothing yet.

    Args:
      paths: of `N` files.
      load: reads one of them, in any thread.
      shape: of what it returns.
      dtype: of that.
    """
    self._paths, self._load = tuple(paths), load
    self.shape, self.dtype = (len(self._paths), *shape), np.dtype(dtype)

  def __len__(self) -> int:
    return len(self._paths)

  def __getitem__(self, rows: Any) -> np.ndarray:
    chosen = np.arange(len(self))[rows]
    out = np.empty((*chosen.shape, *self.shape[1:]), self.dtype)
    flat = out.reshape(-1, *self.shape[1:])

    def fill(place: int, row: int) -> None:
      flat[place] = self._load(self._paths[row])

    places = [*enumerate(chosen.reshape(-1))]
    if len(places) == 1:
      fill(*places[0])
    elif places:
      # Decoders release the lock of the interpreter.
      with ThreadPoolExecutor(min(_THREADS, len(places))) as pool:
        list(pool.map(lambda pair: fill(*pair), places))
    return out

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    del copy  # What is read is new in any case.
    return self[:].astype(dtype or self.dtype, copy=False)


def _missing(path: Path, error: OSError) -> DataError:
  return DataError(f'{path}: cannot be read ({error.strerror}). Copy the file again.')


def _checked(path: Path, file: BinaryIO, kind: Kind) -> tuple[int, int]:
  """Height and width, if the header promises an image of the kind."""
  try:
    shape, dtype = _header(file)
  except (ValueError, struct.error) as error:
    reason = 'it was cut' if isinstance(error, struct.error) else error
    raise DataError(
      f'{path}: not a complete PNG, JPEG or .npy image ({reason}). Copy the file again.'
    ) from error
  height, width, channels = shape
  if min(height, width) < 1 or height * width > MAX_PIXELS:
    raise DataError(
      f'{path}: an image of {height} by {width} pixels; at least one and at most '
      f'{MAX_PIXELS} can be read. Make it smaller.'
    )
  if dtype != kind.dtype or (channels > 2) != kind.color or channels == 2:
    wanted = f'{np.dtype(kind.dtype)} with {3 if kind.color else 1}'
    raise DataError(
      f'{path}: {dtype} with {channels} channels; a {kind.name} is {wanted}. Is this '
      'the file that its name says?'
    )
  return height, width


def _header(file: BinaryIO) -> tuple[tuple[int, int, int], np.dtype]:
  """Height, width and channels, and the type of the pixels.

  Raises ValueError, or what else `_checked` catches, if the file is none of the three
  formats or was cut.
  """
  start = file.read(8)
  file.seek(0)
  if start == _PNG:
    return _png_header(file)
  if start.startswith(_JPEG):
    return _jpeg_header(file)
  if start.startswith(npy.MAGIC):
    return _npy_header(file)
  raise ValueError('it begins with none of their marks')


def _png_header(file: BinaryIO) -> tuple[tuple[int, int, int], np.dtype]:
  """From the chunk IHDR, which comes first."""
  file.seek(len(_PNG))
  length, name, width, height, bits, color = struct.unpack('>I4sIIBB', file.read(18))
  if (length, name) != (13, b'IHDR') or color not in _PNG_CHANNELS:
    raise ValueError('damaged header')
  if color == 0 and bits < 8:  # Decoders stretch these to the whole range.
    raise ValueError(f'{bits} bits per pixel')
  size = file.seek(0, os.SEEK_END)
  after = len(_PNG)
  packed = 0
  while name != b'IEND':  # Decoders make room for what a chunk says of itself.
    file.seek(after)
    length, name = struct.unpack('>I4s', file.read(8))
    after += length + 12
    packed += length * (name == b'IDAT')
  if after > size:
    raise ValueError('it was cut')
  # Decoders unpack all of it, also what is not of the image.
  pixels = height * (width * _PNG_CHANNELS[color] * bits // 8 + 2)
  if packed > 2 * pixels + _PNG_OVERHEAD:
    raise ValueError('more pixels than its header says')
  dtype = np.dtype(np.uint16 if bits == 16 else np.uint8)
  return (height, width, _PNG_CHANNELS[color]), dtype


def _jpeg_header(file: BinaryIO) -> tuple[tuple[int, int, int], np.dtype]:
  """From the segment that begins the frame; the pixels must follow."""
  file.seek(len(_JPEG))
  found = None
  while True:
    mark, code, length = struct.unpack('>BBH', file.read(4))
    if mark != 0xFF or length < 2:
      raise ValueError('damaged header')
    if code == 0xFF:  # Marks may be filled up with more of these.
      file.seek(-3, os.SEEK_CUR)
      continue
    after = file.tell() + length - 2
    if code in _JPEG_FRAMES:
      bits, height, width, channels = struct.unpack('>BHHB', file.read(6))
      found = (height, width, channels), np.dtype(np.uint8 if bits == 8 else np.uint16)
    if code == _JPEG_SCAN:
      break
    file.seek(after)
  if found is None:
    raise ValueError('damaged header')
  # A thumbnail before the pixels has an end, too.
  file.seek(max(after, file.seek(0, os.SEEK_END) - _TAIL))
  if _JPEG_END not in file.read():
    raise ValueError('it was cut')
  return found


def _npy_header(file: BinaryIO) -> tuple[tuple[int, int, int], np.dtype]:
  """From NumPy's; the file must hold as many bytes as that says."""
  size = file.seek(0, os.SEEK_END)
  file.seek(0)
  shape, _, dtype = npy.read_header(file, size)
  if len(shape) != 2:
    raise ValueError(f'an array of shape {shape!r:.80}')
  return (*shape, 1), dtype


def _decoded(content: bytes, kind: Kind) -> np.ndarray | None:
  """The image, or None if it is damaged."""
  import cv2

  if content.startswith(npy.MAGIC):
    return npy.read_array(io.BytesIO(content), len(content))
  how = cv2.IMREAD_COLOR if kind.color else cv2.IMREAD_UNCHANGED
  how |= cv2.IMREAD_IGNORE_ORIENTATION
  try:
    image = cv2.imdecode(np.frombuffer(content, np.uint8), how)
  except cv2.error:
    return None
  if image is None or not kind.color:
    return image
  return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
