"""Spectrograms as square grey images, by the recipe of AV-MNIST's audio."""

import hashlib

import numpy as np

from jdyn.data.dataset import DataError

SIZE = 112
"""Frames and frequencies."""

_NFFT = 2 * SIZE - 1  # An odd length has (n + 1) / 2 frequencies.


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
