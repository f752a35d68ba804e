"""The Free Spoken Digit Dataset: wav files named after digit, speaker and number."""

import dataclasses
import re
import struct
import wave
from pathlib import Path

import numpy as np

from jdyn.data.dataset import DataError

RATE = 8000
"""Samples per second."""


@dataclasses.dataclass(frozen=True, order=True)
class Recording:
  """One wav file, `{digit}_{speaker}_{index}.wav`."""

  digit: int
  speaker: str
  index: int
  path: Path


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


def read_wav(path: Path) -> np.ndarray:
  """The samples of a recording: `i16[L]`; they take the size of the file.

  Raises:
    DataError: if it is not 8 kHz, mono, 16 bit, or is cut short.
  """
  try:
    with wave.open(str(path), 'rb') as file:
      form = (file.getframerate(), file.getnchannels(), 8 * file.getsampwidth())
      if form != (RATE, 1, 16):
        raise DataError(
          f'{path}: {form[0]} Hz, {form[1]} channels, {form[2]} bit; expected {RATE} '
          'Hz, 1 channel, 16 bit. Convert it.'
        )
      count = file.getnframes()
      # Room for so many is made before the first is read.
      data = file.readframes(min(count, path.stat().st_size))
  except (EOFError, OSError, RuntimeError, struct.error, wave.Error) as error:
    raise DataError(f'{path}: not a wav file ({error}). Fetch it again.') from error
  if len(data) != 2 * count:
    raise DataError(f'{path}: {len(data)} of {2 * count} bytes. Fetch it again.')
  return np.frombuffer(data, '<i2')
