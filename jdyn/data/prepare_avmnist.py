"""AV-MNIST, built from MNIST and the Free Spoken Digit Dataset (FSDD).

AV-MNIST (Vielzeuf et al., "CentralNet", 2018) pairs an MNIST digit that has lost
most of its energy to a PCA with the spectrogram of somebody saying the digit. The
files that circulate came from a script (`_MFAS/datasets/avmnist_gen.py`) on MNIST,
FSDD and ESC-50 noise. This is the same recipe, except that

- every spectrogram belongs to its label. There, results were collected in the order
  in which worker processes finished, so audio and labels drift apart;
- by default no speaker of the test set is heard in training. There, the first
  version holds out one speaker, the second one only recordings;
- the PCA is fitted on the training images (`pca_fit='separate'` fits each part on
  its own, as there). As there, the mean is not added back;
- grey levels are linear in decibel; there, a colour map bends them slightly;
- noise, if any, is synthetic: pink, at a given signal-to-noise ratio.

So results on it are not comparable with published ones; call it "AV-MNIST rebuilt".
"""

import dataclasses
import gzip
import hashlib
import itertools
import json
import math
import os
import platform
import re
import shutil
import struct
import wave
import zlib
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np

from jdyn.data.dataset import DataError
from jdyn.data.hashing import sha256_file

RATE = 8000
"""Samples per second of an FSDD recording."""

SIZE = 112
"""Frames and frequencies of a spectrogram."""

_NFFT = 2 * SIZE - 1  # An odd length has (n + 1) / 2 frequencies.
_PIXELS = 28 * 28
_MAX_IDX_BYTES = 2**30  # MNIST has 47 million.
_PARTS = ('train', 'test')
_MNIST = {'train': 'train', 'test': 't10k'}
_FIRST_TEST_INDEX = 40  # With audio_split='index': of 50, as the circulating files.
_BLOCK = 4096  # Rows written at a time.

Progress = Callable[[str, int, int], None]
"""Called as `progress(what, done, total)`."""


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What decides the dataset, apart from the recordings and images.

  Attributes:
    pca_components: kept of 784. Four, the fewest that hold a quarter of the
      variance, give an image-only accuracy near the published one.
    pca_fit: `train` uses the components of the training images for both parts,
      `separate` fits each part on its own.
    audio_split: `speaker` holds out `test_speakers`, `index` recordings 40 and up
      of every speaker.
    test_speakers: whose recordings are the test set's.
    noise_snr_db: signal-to-noise ratio of added pink noise; none if None.
    seed: of the order in which recordings are dealt out, and of the noise.
    limit_train: use the first rows of MNIST only; all if None.
    limit_test: likewise.
  """

  pca_components: int = 4
  pca_fit: Literal['train', 'separate'] = 'train'
  audio_split: Literal['speaker', 'index'] = 'speaker'
  test_speakers: tuple[str, ...] = ('george', 'lucas')
  noise_snr_db: float | None = None
  seed: int = 0
  limit_train: int | None = None
  limit_test: int | None = None

  def __post_init__(self):
    """Raises ValueError for a value that makes no sense."""
    if self.pca_fit not in ('train', 'separate'):
      raise ValueError(f"pca_fit={self.pca_fit!r}; expected 'train' or 'separate'.")
    if self.audio_split not in ('speaker', 'index'):
      raise ValueError(
        f"audio_split={self.audio_split!r}; expected 'speaker' or 'index'."
      )
    if not 1 <= self.pca_components <= _PIXELS:
      raise ValueError(
        f'pca_components={self.pca_components}; expected 1 to {_PIXELS}.'
      )
    for name in ('limit_train', 'limit_test'):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise ValueError(f'{name}={value}; expected at least 1, or None for all.')


@dataclasses.dataclass(frozen=True, order=True)
class Recording:
  """One wav file, `{digit}_{speaker}_{index}.wav`."""

  digit: int
  speaker: str
  index: int
  path: Path


# --- Images -----------------------------------------------------------------


def read_idx(path: Path) -> np.ndarray:
  """An MNIST file of unsigned bytes, gzipped or not: `u8[...]`.

  Raises:
    DataError: if it is no such file, or its size is not what its header says.
  """
  opener = gzip.open if path.suffix == '.gz' else open
  try:
    with opener(path, 'rb') as file:
      zeros, kind, rank = struct.unpack('>HBB', file.read(4))
      if zeros or kind != 8 or not 1 <= rank <= 3:
        raise DataError(f'{path}: not an idx file of bytes. Fetch it again.')
      shape = struct.unpack(f'>{rank}I', file.read(4 * rank))
      size = math.prod(shape)
      if size > _MAX_IDX_BYTES:
        raise DataError(f'{path}: {shape} bytes promised; not a file of MNIST.')
      data = file.read(size + 1)  # Never more than the header promises, but for one.
  except (struct.error, EOFError, gzip.BadGzipFile, zlib.error) as error:
    raise DataError(
      f'{path}: truncated or damaged ({error}). Fetch it again.'
    ) from error
  if len(data) != size:
    found = 'more' if len(data) > size else len(data)
    raise DataError(
      f'{path}: the header promises {size} bytes, there are {found}. Fetch it again.'
    )
  return np.frombuffer(data, np.uint8).reshape(shape)


def read_mnist(
  root: Path, part: str, limit: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Images `u8[N, 784]` and labels `u8[N]` of `train` or `test`, in MNIST's order.

  Raises:
    DataError: if a file is absent or damaged, or the two do not fit.
  """
  images = read_idx(_idx_path(root, part, 'images-idx3-ubyte'))
  labels = read_idx(_idx_path(root, part, 'labels-idx1-ubyte'))
  if (
    images.ndim != 3 or images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]
  ):
    raise DataError(
      f'{root}: {part} has images {images.shape} and labels {labels.shape}; expected '
      '(N, 28, 28) and (N,).'
    )
  if len(labels) == 0 or labels.max() > 9:
    raise DataError(f'{root}: the {part} labels are not digits from 0 to 9.')
  return images.reshape(-1, _PIXELS)[:limit], labels[:limit]


def _idx_path(root: Path, part: str, rest: str) -> Path:
  plain = root / f'{_MNIST[part]}-{rest}'
  for path in (plain, plain.with_name(f'{plain.name}.gz')):
    if path.is_file():
      return path
  raise DataError(f'{plain}[.gz]: absent. Expected the four files of MNIST in {root}.')


@dataclasses.dataclass(frozen=True)
class PCA:
  """Principal components.

  Attributes:
    mean: `f64[784]` of the images.
    components: `f64[K, 784]`, orthonormal, the one of most variance first.
    variance_share: what part of the variance the components hold.
  """

  mean: np.ndarray
  components: np.ndarray
  variance_share: float

  def reduce(self, images: np.ndarray) -> np.ndarray:
    """The images' projection on the components, without the mean: `f64[N, 784]`."""
    return (images - self.mean) @ self.components.T @ self.components


def fit_pca(images: np.ndarray, count: int) -> PCA:
  """The first `count` principal components of `u8[N, 784]`.

  Every intermediate up to the covariance is a whole number below 2**53, so it is
  exact and does not depend on the order in which a BLAS adds.
  """
  size = len(images)
  total = images.sum(0, dtype=np.float64)
  gram = np.zeros((_PIXELS, _PIXELS))
  for block in np.split(images, range(_BLOCK, size, _BLOCK)):
    block = block.astype(np.float64)
    gram += block.T @ block
  covariance = (size * gram - np.outer(total, total)) / size**2
  values, vectors = np.linalg.eigh(covariance)
  kept = slice(None, -count - 1, -1)  # eigh sorts upwards.
  share = values[kept].sum() / max(values.sum(), np.finfo(float).tiny)
  return PCA(total / size, vectors[:, kept].T, float(share))


# --- Audio ------------------------------------------------------------------


def find_recordings(root: Path) -> list[Recording]:
  """The recordings in a folder, sorted by digit, speaker and index.

  Raises:
    DataError: if there is none, or a wav file has another kind of name.
  """
  recordings = []
  for path in root.glob('*.wav'):
    match = re.fullmatch(r'([0-9])_([A-Za-z]+)_([0-9]+)\.wav', path.name)
    if not match:
      raise DataError(
        f'{path}: expected a name like 7_theo_12.wav (digit, speaker, no).'
      )
    digit, speaker, index = match.groups()
    recordings.append(Recording(int(digit), speaker, int(index), path))
  if not recordings:
    raise DataError(
      f'{root}: no wav files. Expected the folder `recordings` of '
      'https://github.com/Jakobovski/free-spoken-digit-dataset.'
    )
  return sorted(recordings)


def split_recordings(
  recordings: Sequence[Recording], recipe: Recipe
) -> dict[str, dict[int, list[Recording]]]:
  """The recordings of each part by digit, in the order in which they are dealt out.

  Raises:
    DataError: if a test speaker is unknown, or a digit has no recording in a part.
  """
  if recipe.audio_split == 'speaker':
    known = {recording.speaker for recording in recordings}
    if unknown := sorted(set(recipe.test_speakers) - known):
      raise DataError(
        f'test_speakers: no recording by {", ".join(unknown)}; there are '
        f'{", ".join(sorted(known))}.'
      )
  pools = {part: {digit: [] for digit in range(10)} for part in _PARTS}
  for recording in recordings:
    if recipe.audio_split == 'speaker':
      held_out = recording.speaker in recipe.test_speakers
    else:
      held_out = recording.index >= _FIRST_TEST_INDEX
    pools['test' if held_out else 'train'][recording.digit].append(recording)
  # RandomState, not Generator: NumPy promises that its numbers never change.
  random = np.random.RandomState(recipe.seed)
  for part, digits in pools.items():
    for digit, pool in digits.items():
      if not pool:
        raise DataError(
          f'No recording of the digit {digit} for {part}, with audio_split='
          f'{recipe.audio_split!r} and test_speakers={recipe.test_speakers}. '
          'Choose others, or add recordings.'
        )
      random.shuffle(pool)
  return pools


def pair(
  labels: np.ndarray, pools: Mapping[int, Sequence[Recording]]
) -> list[Recording]:
  """A recording for every label: the k-th 7 gets the k-th of the sevens, cyclically."""
  turns = {digit: itertools.cycle(pool) for digit, pool in pools.items()}
  pairs = [next(turns[int(label)]) for label in labels]
  for row, (label, recording) in enumerate(zip(labels, pairs, strict=True)):
    # The original's files fail here, so it is read from the name once more.
    if int(recording.path.name[0]) != label:
      raise DataError(f'{recording.path}: paired with row {row}, which is a {label}.')
  return pairs


def read_wav(path: Path) -> np.ndarray:
  """The samples of a recording: `i16[L]`.

  Raises:
    DataError: if it is not 8 kHz, mono, 16 bit, or is cut short.
  """
  try:
    with wave.open(str(path), 'rb') as file:
      form = (file.getframerate(), file.getnchannels(), 8 * file.getsampwidth())
      count = file.getnframes()
      data = file.readframes(count)
  except (wave.Error, EOFError) as error:
    raise DataError(f'{path}: not a wav file ({error}). Fetch it again.') from error
  if form != (RATE, 1, 16):
    raise DataError(
      f'{path}: {form[0]} Hz, {form[1]} channels, {form[2]} bit; expected {RATE} Hz, '
      '1 channel, 16 bit. Convert it.'
    )
  if len(data) != 2 * count:
    raise DataError(f'{path}: {len(data)} of {2 * count} bytes. Fetch it again.')
  return np.frombuffer(data, '<i2')


def window(length: int) -> tuple[int, int]:
  """Window and hop, in samples, that cut a clip into exactly `SIZE` frames.

  The window is the shortest from ceil(length / SIZE) - 1 on for which there is such
  a hop, not longer than the window; of several hops the longest is taken.

  Raises:
    DataError: if the clip is too short or too long for that.
  """
  # From _NFFT + 1 on, a frame would be longer than its transform.
  for size in range(max(-(-length // SIZE) - 1, 1), _NFFT + 1):
    hop = (length - size) // (SIZE - 1)
    if 1 <= hop <= size and length < size + SIZE * hop:
      return size, hop
  raise DataError(
    f'A clip of {length} samples cannot be cut into {SIZE} frames of at most {_NFFT} '
    'samples. Trim or drop it.'
  )


def spectrogram(samples: np.ndarray) -> np.ndarray:
  """A clip as a grey image: `u8[112, 112]`, the loudest point 0, the quietest 255.

  Time runs to the right, frequency upwards. Power spectral density with a Hann
  window, in decibel, scaled by clip. Where nothing at all sounds, decibels end at the
  quietest sound of the clip.

  Raises:
    DataError: if the clip is silent, too short or too long.
  """
  size, hop = window(len(samples))
  frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), size)
  spectrum = np.fft.rfft(frames[::hop][:SIZE] * np.hanning(size), _NFFT)
  power = np.abs(spectrum.T[::-1]) ** 2
  power[:-1] *= 2  # One-sided: all but 0 Hz, now the last row, stand for two.
  if not power.any():
    raise DataError('A silent clip has no spectrogram.')
  level = 10 * np.log10(np.maximum(power, power[power > 0].min()))
  low, high = level.min(), level.max()
  scaled = (level - low) / max(high - low, np.finfo(float).tiny)
  return (255 - np.rint(255 * scaled)).astype(np.uint8)


def pink_noise(length: int, random: np.random.RandomState) -> np.ndarray:
  """Noise whose power falls with 1 / frequency, and whose mean power is 1: `f64[L]`."""
  spectrum = np.fft.rfft(random.standard_normal(length))
  spectrum[0] = 0
  spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
  noise = np.fft.irfft(spectrum, length)
  return noise / np.sqrt(np.mean(noise**2))


def add_noise(samples: np.ndarray, snr_db: float, seed: int, name: str) -> np.ndarray:
  """The clip with pink noise that depends on `seed` and the file's `name` only."""
  digest = hashlib.sha256(f'{seed}/{name}'.encode()).digest()
  random = np.random.RandomState(int.from_bytes(digest[:4], 'little'))
  power = np.mean(samples.astype(np.float64) ** 2) * 10 ** (-snr_db / 10)
  return samples + np.sqrt(power) * pink_noise(len(samples), random)


# --- The dataset ------------------------------------------------------------


def prepare_avmnist(
  mnist: Path,
  fsdd: Path,
  out: Path,
  recipe: Recipe = Recipe(),
  progress: Progress = lambda _what, _done, _total: None,
) -> None:
  """Writes the folder that the source `avmnist` reads, and its manifest.

  `image/{train,test}_data.npy` f64 `(N, 784)`, `audio/{train,test}_data.npy` u8
  `(N, 112, 112)`, `{train,test}_labels.npy` u8, `manifest.json`. It appears under
  its name only when it is complete. Equal arguments give equal arrays.

  Args:
    mnist: folder with the four idx files, gzipped or not.
    fsdd: folder with the wav files.
    out: the folder to create; it must not exist, or be empty.
    recipe: everything else.
    progress: told how far the work is.

  Raises:
    DataError: if `out` has files, or the input is incomplete or damaged.
  """
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise DataError(f'{out}: exists. Remove it, or choose another folder.')
  limits = {'train': recipe.limit_train, 'test': recipe.limit_test}
  data = {part: read_mnist(mnist, part, limits[part]) for part in _PARTS}
  recordings = find_recordings(fsdd)
  pools = split_recordings(recordings, recipe)
  pairs = {part: pair(data[part][1], pools[part]) for part in _PARTS}

  partial = out.with_name(f'.{out.name}.partial-{os.getpid()}')
  partial.mkdir(parents=True)
  try:
    shares = _write_images(partial, data, recipe, progress)
    _write_audio(partial, pairs, recipe, progress)
    for part in _PARTS:
      np.save(partial / f'{part}_labels.npy', data[part][1])
    manifest = _manifest(recipe, mnist, recordings, pairs, shares)
    manifest['files'] = {
      str(path.relative_to(partial)): sha256_file(path)
      for path in sorted(partial.rglob('*.npy'))
    }
    text = json.dumps(manifest, indent=1)
    (partial / 'manifest.json').write_text(f'{text}\n', encoding='utf-8')
    partial.replace(out)
  except BaseException:
    shutil.rmtree(partial)
    raise


def _write_images(
  root: Path,
  data: Mapping[str, tuple[np.ndarray, np.ndarray]],
  recipe: Recipe,
  progress: Progress,
) -> dict[str, float]:
  """Writes the reduced images; the share of variance kept, by the part fitted on."""
  (root / 'image').mkdir()
  fitted = {}
  for part in _PARTS:
    images, _ = data[part]
    if part == 'train' or recipe.pca_fit == 'separate':
      pca = fitted[part] = fit_pca(images, recipe.pca_components)
    path = root / 'image' / f'{part}_data.npy'
    shape = (len(images), _PIXELS)
    array = np.lib.format.open_memmap(path, 'w+', np.float64, shape)
    for start in range(0, len(images), _BLOCK):
      rows = slice(start, start + _BLOCK)
      array[rows] = pca.reduce(images[rows])
      progress(f'{part} images', min(start + _BLOCK, len(images)), len(images))
    array.flush()
  return {part: pca.variance_share for part, pca in fitted.items()}


def _write_audio(
  root: Path,
  pairs: Mapping[str, Sequence[Recording]],
  recipe: Recipe,
  progress: Progress,
) -> None:
  """Writes the spectrograms; one that is used often is computed once."""
  (root / 'audio').mkdir()
  for part, recordings in pairs.items():
    distinct = sorted(set(recordings))
    bank = np.empty((len(distinct), SIZE, SIZE), np.uint8)
    for i, recording in enumerate(distinct):
      bank[i] = _recording_spectrogram(recording.path, recipe)
      progress(f'{part} recordings', i + 1, len(distinct))
    place = {recording: i for i, recording in enumerate(distinct)}
    index = np.array([place[recording] for recording in recordings])
    path = root / 'audio' / f'{part}_data.npy'
    shape = (len(index), SIZE, SIZE)
    array = np.lib.format.open_memmap(path, 'w+', np.uint8, shape)
    for start in range(0, len(index), _BLOCK):
      array[start : start + _BLOCK] = bank[index[start : start + _BLOCK]]
      progress(f'{part} audio', min(start + _BLOCK, len(index)), len(index))
    array.flush()


def _recording_spectrogram(path: Path, recipe: Recipe) -> np.ndarray:
  samples = read_wav(path)
  if recipe.noise_snr_db is not None:
    samples = add_noise(samples, recipe.noise_snr_db, recipe.seed, path.name)
  try:
    return spectrogram(samples)
  except DataError as error:
    raise DataError(f'{path}: {error}') from error


def _manifest(
  recipe: Recipe,
  mnist: Path,
  recordings: Sequence[Recording],
  pairs: Mapping[str, Sequence[Recording]],
  shares: Mapping[str, float],
) -> dict:
  """How the folder came to be; paths stay out, since they say nothing elsewhere."""
  sources = {
    path.name: sha256_file(path)
    for part in _PARTS
    for rest in ('images-idx3-ubyte', 'labels-idx1-ubyte')
    for path in [_idx_path(mnist, part, rest)]
  }
  wavs = hashlib.sha256()
  for recording in recordings:
    wavs.update(f'{recording.path.name} {sha256_file(recording.path)}\n'.encode())
  return {
    'name': 'AV-MNIST rebuilt; not comparable with results on the circulating files',
    'recipe': dataclasses.asdict(recipe),
    'variance_share': dict(shares),
    'speakers': {
      part: sorted({recording.speaker for recording in used})
      for part, used in pairs.items()
    },
    'recordings': {part: len(set(used)) for part, used in pairs.items()},
    'versions': {
      'python': platform.python_version(),
      'numpy': np.__version__,
      'jdyn': metadata.version('jdyn'),
    },
    'sources': {**sources, 'wav files': wavs.hexdigest()},
    'ids': {
      part: [f'{row:05d}-{used.path.stem}' for row, used in enumerate(paired)]
      for part, paired in pairs.items()
    },
  }
