"""The sequence pickles of MultiBench: CMU-MOSEI, CMU-MOSI, MUStARD and UR-FUNNY.

Liang et al., "MultiBench", NeurIPS Datasets and Benchmarks 2021. A file holds word
aligned vision, audio and text features, padded with zeros *in front*. As in the
released loader, utterances without text are dropped, audio's -inf (the logarithm of
silence) becomes 0, and all three modalities start at the first word.

Where the released loader differs: it lets NaN and +inf through (here an error), its
z-norm turns features without variance into enormous numbers when the mean is not
exact (here 0), and its batches are padded to their longest utterance, so that a
prediction depends on who else is in the batch (`padding='batch_max'`; the default
here is `masked`).
"""

import dataclasses
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from jdyn.data import files
from jdyn.data.dataset import DataError, DataSpec, ModalitySpec, Split
from jdyn.data.restricted_pickle import load_arrays
from jdyn.data.stand_in import view


@dataclasses.dataclass(frozen=True)
class _Format:
  """One of the files: the features per step, and what its labels mean."""

  name: str
  widths: Mapping[str, int]
  sentiment: bool
  """True for real-valued sentiment in [-3, 3], False for a yes or no."""


FORMATS = {
  'mosei_senti_data.pkl': _Format('mosei', dict(vision=35, audio=74, text=300), True),
  'mosi_raw.pkl': _Format('mosi_raw', dict(vision=35, audio=74, text=300), True),
  'mosi_data.pkl': _Format('mosi_data', dict(vision=20, audio=5, text=300), True),
  'sarcasm.pkl': _Format('sarcasm', dict(vision=371, audio=81, text=300), False),
  'humor.pkl': _Format('humor', dict(vision=371, audio=81, text=300), False),
}
"""The files that are known, by name."""

_SPLITS = ('train', 'valid', 'test')
_ID_PARTS = 8
_NOT_PLAIN = dict | list | tuple | np.ndarray
_BLOCK = 1024  # Rows that are converted at a time; keeps the copies small.


@dataclasses.dataclass(frozen=True)
class MultiBench:
  """A MultiBench sequence pickle, with modalities `text`, `audio` and `vision`.

  A modality is `{'steps': f32[N, T, F], 'length': i32[N]}`: the real steps come
  first, zeros fill up to `T = max_length`.

  Attributes:
    file: one of `FORMATS`.
    padding: what `length` says, and so which steps a model sees. `masked`: the
      utterance's own steps. `batch_max`: own steps, then zeros up to the longest
      utterance of the batch, as DynMM trains. `fixed`: always `max_length`.
    label: `real` for regression: sentiment, or -1 and 1 for a yes-or-no dataset;
      `binary` for two classes, the second being a label above 0.
    znorm: normalise each feature over the steps of its utterance, with the unbiased
      standard deviation; features that do not vary become 0.
    max_length: steps kept, from the first word on.
  """

  file: str = 'mosei_senti_data.pkl'
  padding: Literal['masked', 'batch_max', 'fixed'] = 'masked'
  label: Literal['real', 'binary'] = 'real'
  znorm: bool = False
  max_length: int = 50

  layout: ClassVar[str] = f"""\
<root>/<file>  pickle of {{'train', 'valid', 'test'}}, each a dict of arrays:
               vision, audio, text (N, T, F), labels (N, ...), id (N, ...)
<file> is one of {', '.join(FORMATS)}
from: the links under Affective Computing in https://github.com/pliang279/MultiBench"""
  bundled: ClassVar[bool] = False

  def __post_init__(self):
    """Raises ValueError for an option that does not exist."""
    for option, value, choices in (
      ('file', self.file, tuple(FORMATS)),
      ('padding', self.padding, ('masked', 'batch_max', 'fixed')),
      ('label', self.label, ('real', 'binary')),
    ):
      if value not in choices:
        raise ValueError(f'{option}={value!r}; expected one of {choices}.')
    if self.max_length < 1:
      raise ValueError(f'max_length={self.max_length}; expected at least 1.')

  def spec(self, root: Path) -> DataSpec:
    """The specification; the file's name decides the widths."""
    del root  # Unused: a wrong width is an error of `load`.
    form = FORMATS[self.file]
    binary = self.label == 'binary'
    return DataSpec(
      name=form.name,
      task='multiclass' if binary else 'regression',
      modalities={
        name: ModalitySpec((self.max_length, width), sequence=True)
        for name, width in form.widths.items()
      },
      num_outputs=2 if binary else 1,
      class_names=('not positive', 'positive') if binary else (),
    )

  def files(self, root: Path) -> list[Path]:
    """The pickle; raises DataError if it is absent."""
    return files.require(root, [self.file], self.layout)

  def load(self, root: Path) -> Mapping[str, Split]:
    """The splits; raises DataError on anything but arrays of the right shapes."""
    (path,) = self.files(root)
    raw = load_arrays(path)
    for name in _SPLITS:
      if not isinstance(raw, dict) or not isinstance(raw.get(name), dict):
        raise DataError(f'{path}: no dict {name!r}. Expected layout:\n{self.layout}')
    # Popped, since raw and converted arrays of all splits together are twice the size.
    return {name: self._split(raw.pop(name), f'{path}: {name}') for name in _SPLITS}

  def _split(self, raw: dict[str, Any], where: str) -> Split:
    form = FORMATS[self.file]
    for field in (*form.widths, 'labels', 'id'):
      if field not in raw:
        raise DataError(f'{where}: no field {field!r}. Expected:\n{self.layout}')
    text = _sequences(raw, 'text', form.widths['text'], None, where)
    count, steps = text.shape[:2]
    labels = _labels(raw['labels'], count, where)
    ids = _ids(raw['id'], count, where)

    rows, start = _first_words(text)
    if not len(rows):
      raise DataError(f"{where}: 'text' is all zeros. Fetch the file again.")
    length = np.minimum(steps - start, self.max_length).astype(np.int32)
    seen = length if self.padding != 'fixed' else np.full_like(length, self.max_length)
    inputs = {}
    for name, width in form.widths.items():
      raw_steps = _sequences(raw, name, width, (count, steps), where)
      aligned = self._align(raw_steps, rows, start, name, where)
      inputs[name] = {'steps': aligned, 'length': seen}
    labels = labels[rows]
    if self.label == 'binary':
      labels = (labels > 0).astype(np.int32)
    elif not form.sentiment:
      labels = np.where(labels < 1, -1, 1).astype(np.float32)
    return Split(
      inputs,
      labels,
      ids[rows],
      collate=to_batch_max if self.padding == 'batch_max' else None,
    )

  def _align(
    self, raw: np.ndarray, rows: np.ndarray, start: np.ndarray, name: str, where: str
  ) -> np.ndarray:
    """The rows without their first `start` steps, zeros at the end: `f32[N, T, F]`."""
    aligned = np.zeros((len(rows), self.max_length, raw.shape[2]), np.float32)
    for first in np.unique(start):
      (group,) = np.nonzero(start == first)
      for block in np.split(group, range(_BLOCK, len(group), _BLOCK)):
        steps = raw[rows[block], first:]
        with np.errstate(over='ignore'):  # Found as infinite below.
          steps = steps.astype(np.float32)
        if name == 'audio':
          steps[steps == -np.inf] = 0
        finite = np.isfinite(steps).all((1, 2))
        if not finite.all():
          row = rows[block][np.argmin(finite)]
          raise DataError(
            f'{where}: {name!r} of row {row} has NaN or infinite values. '
            'Remove or replace them.'
          )
        steps = (_normalise(steps) if self.znorm else steps)[:, : self.max_length]
        aligned[block, : steps.shape[1]] = steps
    return aligned

  def write_stand_in(self, root: Path, seed: int) -> None:
    """300 short utterances with sentiment in text and, for others, in face and voice.

    Some have no text at all, and some a silent step, as in the real files.
    """
    form = FORMATS[self.file]
    rng = np.random.default_rng(seed)
    count, steps = 300, 50
    sentiment = np.clip(rng.standard_normal((count, 1)) * 1.5, -3, 3)
    length = rng.integers(4, 13, count)
    real = np.arange(steps) >= steps - length[:, None]
    real[::60] = False  # No text: to be dropped.
    fields = {}
    for name, width in sorted(form.widths.items()):
      share = 0.7 if name == 'text' else 0.4
      constant = view(rng, sentiment, width, clear=share, noise=0.3)
      varying = 0.3 * rng.standard_normal((count, steps, width))
      fields[name] = (real[..., None] * (constant[:, None] + varying)).astype('f4')
    fields['audio'][1::30, -1, 0] = -np.inf
    label = sentiment if form.sentiment else sentiment > 0
    fields['labels'] = label.reshape(count, 1, 1).astype('f4')
    fields['id'] = np.array([f'video{i // 4}[{i % 4}]' for i in range(count)])
    bounds = {'train': (0, 200), 'valid': (200, 248), 'test': (248, 300)}
    root.mkdir(parents=True, exist_ok=True)
    with (root / self.file).open('wb') as file:
      pickle.dump(
        {
          split: {field: values[first:last] for field, values in fields.items()}
          for split, (first, last) in bounds.items()
        },
        file,
      )


def to_batch_max(inputs: Mapping[str, Any]) -> dict[str, Any]:
  """The inputs of a batch, the lengths of sequences replaced by the batch's longest."""

  def longest(value: Any) -> Any:
    if not isinstance(value, Mapping) or 'length' not in value:
      return value
    return {**value, 'length': np.full_like(value['length'], value['length'].max())}

  return {name: longest(value) for name, value in inputs.items()}


def _sequences(
  raw: dict[str, Any],
  name: str,
  width: int,
  size: tuple[int, int] | None,
  where: str,
) -> np.ndarray:
  """The checked field `[N, T, width]`; `size` is (N, T), any if None."""
  value = raw[name]
  kind = 'objects' if not isinstance(value, np.ndarray) else value.dtype
  if not isinstance(value, np.ndarray) or value.dtype.kind not in 'fiu':
    raise DataError(f'{where}: {name!r} holds {kind}; expected an array of numbers.')
  expected = (*(size or value.shape[:2]), width)
  if value.ndim != 3 or 0 in value.shape or value.shape != expected:
    wanted = f'{size or "(examples, steps)"} and {width} features per step'
    raise DataError(
      f'{where}: {name!r} has shape {value.shape}; expected {wanted}. '
      'Is this the file that its name says?'
    )
  return value


def _labels(value: Any, count: int, where: str) -> np.ndarray:
  """The first column of the labels: `f32[N]`."""
  if not isinstance(value, np.ndarray) or value.dtype.kind not in 'fiub':
    raise DataError(f"{where}: 'labels' is no array of numbers.")
  if value.ndim == 0 or value.size == 0 or len(value) != count:
    raise DataError(
      f"{where}: 'labels' has shape {value.shape}; expected one row for each of the "
      f"{count} rows of 'text'."
    )
  labels = value.reshape(count, -1)[:, 0].astype(np.float32)
  if not np.isfinite(labels).all():
    row = int(np.argmin(np.isfinite(labels)))
    raise DataError(f"{where}: 'labels' of row {row} is {labels[row]}. Remove the row.")
  return labels


def _ids(value: Any, count: int, where: str) -> np.ndarray:
  """One unique string per row; the parts of an id (video, start, end) are joined.

  Where the file repeats an id, all of its split get the row number behind it.
  """
  is_list = isinstance(value, list) or (isinstance(value, np.ndarray) and value.ndim)
  if not is_list or len(value) != count:
    raise DataError(
      f"{where}: 'id' is no list of one id for each of the {count} rows of 'text'."
    )
  items = value.tolist() if isinstance(value, np.ndarray) else value
  names = [_id(item, where) for item in items]
  if len(set(names)) < count:
    names = [f'{name}#{row}' for row, name in enumerate(names)]
  return np.array(names)


def _id(item: Any, where: str) -> str:
  parts = item.tolist() if isinstance(item, np.ndarray) else item
  parts = parts if isinstance(parts, list | tuple) else [parts]
  # Few and plain: a pickle of a kilobyte can share a list until it has 10^16 items.
  if len(parts) > _ID_PARTS or any(isinstance(part, _NOT_PLAIN) for part in parts):
    raise DataError(
      f"{where}: an 'id' is no value, nor a list of up to {_ID_PARTS} values. Is this "
      'the file that its name says?'
    )
  name = '_'.join(
    part.decode('latin1') if isinstance(part, bytes) else str(part) for part in parts
  )
  return str(files.text_array([name], f"{where}: 'id'")[0])


def _first_words(text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Rows whose text does not sum to 0, and the first step of each that is not 0."""
  sums, starts = [], []
  for block in np.split(text, range(_BLOCK, len(text), _BLOCK)):
    sums.append(block.sum((1, 2)))
    starts.append((block != 0).any(2).argmax(1))
  (rows,) = np.nonzero(np.concatenate(sums))
  return rows, np.concatenate(starts)[rows]


def _normalise(steps: np.ndarray) -> np.ndarray:
  """Zero mean and unit variance over the steps of each example and feature."""
  if steps.shape[1] < 2:
    return np.zeros_like(steps)
  varies = np.ptp(steps, 1, keepdims=True) > 0
  deviation = np.where(varies, steps.std(1, ddof=1, keepdims=True), 1)
  return np.where(varies, (steps - steps.mean(1, keepdims=True)) / deviation, 0)
