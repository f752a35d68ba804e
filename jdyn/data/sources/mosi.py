"""CMU-MOSI utterance features: sentiment of a spoken opinion, three modalities.

Features of declare-lab's multimodal-deep-learning: one vector per utterance and
modality, split by video into 62 for training and 31 for the test. Their tables
`{modality}_{split}0.csv` hold the features and, last, the binary label;
`text_{split}.csv` repeats the text features behind the row, counted from zero, of
each utterance in `transcripts.csv`, which gives its id. The real-valued labels are
from thuiar's Cross-Modal-BERT and are joined by the text of the utterance; there
the binary label is `label >= 0`, so 0 is class 1.

Four utterances are two pairs of the same words in the same video. Each pair is
joined in order of appearance, in both files; the rows around them in the label
files, which are in an order that repeats from video to video, say so too.

No published file separates a validation split by video, so one is carved from
train, whole videos at a time. Features are given as published: text lies within
+-1.6, audio and video reach 376 and 198.
"""

import collections
import csv
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from jdyn.data import stand_in
from jdyn.data.dataset import DataError, DataSpec, ModalitySpec, Split
from jdyn.data.files import as_classes, read_table, require, text_array
from jdyn.data.holdout import hold_out_groups

_WIDTHS = {'audio': 73, 'text': 100, 'video': 100}
_LABEL_FILES = ('train', 'dev', 'test')


@dataclasses.dataclass(frozen=True)
class Mosi:
  """CMU-MOSI, binary or real-valued.

  Attributes:
    label: `binary` (class 1 is not negative) or `real` (regression in [-3, 3]).
    valid_fraction: of the training videos, held out for validation.
    split_seed: of that choice; part of the dataset, not of a run.
  """

  layout: ClassVar[str] = """\
<root>/features/{text,audio,video}_{train,test}0.csv  features, binary label last
       features/text_{train,test}.csv   row in transcripts.csv, then text features
       features/transcripts.csv         utterance id, text, length, binary label
       labels/{train,dev,test}.tsv      text, label; only for label='real'
features: https://github.com/declare-lab/multimodal-deep-learning (MOSI)
labels: https://github.com/thuiar/Cross-Modal-BERT"""
  bundled: ClassVar[bool] = False

  label: Literal['binary', 'real'] = 'binary'
  valid_fraction: float = 0.15
  split_seed: int = 0

  def __post_init__(self):
    """Raises ValueError for a label that does not exist."""
    if self.label not in ('binary', 'real'):
      raise ValueError(f"label={self.label!r}; expected 'binary' or 'real'.")

  def spec(self, root: Path) -> DataSpec:
    """Fixed by the format; `root` is not read."""
    del root
    binary = self.label == 'binary'
    return DataSpec(
      name='mosi',
      task='multiclass' if binary else 'regression',
      modalities={name: ModalitySpec((width,)) for name, width in _WIDTHS.items()},
      num_outputs=2 if binary else 1,
      class_names=('negative', 'not negative') if binary else (),
    )

  def files(self, root: Path) -> list[Path]:
    """The tables of this `label`; raises DataError if one is absent."""
    names = ['features/transcripts.csv']
    for part in ('train', 'test'):
      names += [f'features/{name}_{part}0.csv' for name in _WIDTHS]
      names.append(f'features/text_{part}.csv')
    if self.label == 'real':
      names += [f'labels/{part}.tsv' for part in _LABEL_FILES]
    return require(root, names, self.layout)

  def load(self, root: Path) -> Mapping[str, Split]:
    """The splits; raises DataError where the tables are damaged or disagree."""
    self.files(root)
    features = root / 'features'
    transcripts = _read_transcripts(features / 'transcripts.csv')
    parts = {
      part: _read_part(features, part, transcripts) for part in ('train', 'test')
    }
    shared = np.intersect1d(_videos(parts['train'].ids), _videos(parts['test'].ids))
    if shared.size:
      raise DataError(
        f'{features}: video {shared[0]} is in train and in test '
        f'({shared.size} videos are). Take all tables from one release.'
      )
    if self.label == 'real':
      values = _read_real_labels(root, transcripts)
      for part, split in parts.items():
        label = np.array([values[name] for name in split.ids], np.float32)
        parts[part] = dataclasses.replace(split, label=label)
    train = parts['train']
    kept, held = hold_out_groups(
      _videos(train.ids), self.valid_fraction, self.split_seed
    )
    return {
      'train': train.select(kept),
      'valid': train.select(held),
      'test': parts['test'],
    }

  def write_stand_in(self, root: Path, seed: int) -> None:
    """36 videos of 12 utterances; text tells most, audio and video a little."""
    rng = np.random.default_rng(seed)
    videos, turns = 36, 12
    size = videos * turns
    ids = [f'clip{row // turns:02d}_{row % turns + 1}' for row in range(size)]
    texts = [f'SAID IN {name.upper().replace("_", " TURN ")}' for name in ids]
    texts[1] = texts[0]  # Words that occur twice are part of the format.
    value = np.clip(np.round(rng.standard_normal(size) * 1.5, 1), -3, 3)
    binary = (value >= 0).astype(int)
    signal = np.stack([value / 1.5, value >= 0], axis=1)
    clear = {'text': 0.85, 'audio': 0.5, 'video': 0.4}
    features = {
      name: stand_in.view(rng, signal, width, clear=clear[name], noise=2.0)
      for name, width in _WIDTHS.items()
    }
    parts = {'train': np.arange(24 * turns), 'test': np.arange(24 * turns, size)}
    tables = {
      'transcripts': [
        [name, text, len(text.split()), target]
        for name, text, target in zip(ids, texts, binary, strict=True)
      ]
    }
    for part, rows in parts.items():
      for name, table in features.items():
        tables[f'{name}_{part}0'] = np.column_stack([table, binary])[rows].tolist()
      numbered = np.column_stack([np.arange(size), features['text']])[rows].tolist()
      tables[f'text_{part}'] = [[int(row[0]), *row[1:]] for row in numbered]
    (root / 'features').mkdir(parents=True)
    (root / 'labels').mkdir()
    for name, table in tables.items():
      path = root / 'features' / f'{name}.csv'
      with path.open('w', newline='', encoding='utf-8') as file:
        csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator='\n').writerows(table)
    pieces = np.split(np.arange(size), [size // 2, size * 2 // 3])
    for part, rows in zip(_LABEL_FILES, pieces, strict=True):
      lines = ['text\tlabel', *(f'{texts[row]} \t{value[row]:.1f}' for row in rows)]
      (root / 'labels' / f'{part}.tsv').write_bytes('\r\n'.join([*lines, '']).encode())


@dataclasses.dataclass(frozen=True)
class _Transcripts:
  path: Path
  ids: np.ndarray
  texts: list[str]
  label: np.ndarray


def _videos(ids: np.ndarray) -> np.ndarray:
  """The video of each utterance; video ids may hold underscores themselves."""
  return np.array([name.rsplit('_', 1)[0] for name in ids])


def _normalise(text: str) -> str:
  return ' '.join(text.lower().split())


def _read_transcripts(path: Path) -> _Transcripts:
  try:
    with path.open(newline='', encoding='utf-8') as file:
      rows = list(csv.reader(file))
  except (csv.Error, UnicodeDecodeError) as error:
    raise DataError(f'{path}: not a csv file ({error}). Copy it again.') from error
  for number, row in enumerate(rows):
    if len(row) != 4 or '_' not in row[0] or row[3] not in ('0', '1'):
      raise DataError(
        f'{path}: row {number} is {row!r:.120}; expected video_number, text, length '
        'and a label 0 or 1. Copy the file again; it may be cut.'
      )
  return _Transcripts(
    path=path,
    ids=text_array([row[0] for row in rows], f'{path}: an id'),
    texts=[_normalise(row[1]) for row in rows],
    label=np.array([int(row[3]) for row in rows]),
  )


def _read_part(folder: Path, part: str, transcripts: _Transcripts) -> Split:
  """Features, binary labels and ids of `train` or `test`."""
  inputs, labels = {}, {}
  for name, width in _WIDTHS.items():
    path = folder / f'{name}_{part}0.csv'
    table = read_table(path, columns=width + 1)
    inputs[name] = table[:, :width].astype(np.float32)
    labels[name] = as_classes(table[:, width], 2, str(path))
  reference = labels['text']
  for name, label in labels.items():
    if not np.array_equal(label, reference):
      raise DataError(
        f'{folder}: {name}_{part}0.csv and text_{part}0.csv do not have the same '
        f'labels, row by row ({len(label)} and {len(reference)} rows). '
        'Take all tables from one release.'
      )
  path = folder / f'text_{part}.csv'
  numbered = read_table(path, columns=_WIDTHS['text'] + 1)
  if not np.array_equal(numbered[:, 1:].astype(np.float32), inputs['text']):
    raise DataError(
      f'{path}: its features are not those of text_{part}0.csv. '
      'Take both from one release.'
    )
  where = f'{path}, whose first column counts rows of {transcripts.path}'
  rows = as_classes(numbered[:, 0], len(transcripts.ids), where)
  wrong = transcripts.label[rows] != reference
  if wrong.any():
    first = transcripts.ids[rows[np.argmax(wrong)]]
    raise DataError(
      f'{path}: {wrong.sum()} labels differ from the rows of {transcripts.path} that '
      f'the first column names, the first is that of {first}. '
      'Rows are counted from zero; take both files from one release.'
    )
  return Split(inputs=inputs, label=reference, ids=transcripts.ids[rows])


def _read_real_labels(root: Path, transcripts: _Transcripts) -> dict[str, float]:
  """Real-valued label by utterance id."""
  waiting = collections.defaultdict(collections.deque)
  for part in _LABEL_FILES:
    path = root / 'labels' / f'{part}.tsv'
    for text, value in _read_label_file(path):
      waiting[_normalise(text)].append(value)
  values = {}
  for name, text, binary in zip(
    transcripts.ids, transcripts.texts, transcripts.label, strict=True
  ):
    if not waiting[text]:
      raise DataError(
        f'{root / "labels"}: no label for the text of utterance {name} in '
        f'{transcripts.path}: {text!r:.120}. Take the complete files, or '
        "label='binary'."
      )
    values[name] = waiting[text].popleft()
    if (values[name] >= 0) != binary:
      raise DataError(
        f'{root / "labels"}: utterance {name} has the label {values[name]} there and '
        f'the class {binary} in {transcripts.path}. Take the files of one dataset.'
      )
  return values


def _read_label_file(path: Path) -> list[tuple[str, float]]:
  try:
    header, *lines = path.read_text(encoding='utf-8').splitlines() or ['']
  except UnicodeDecodeError as error:
    raise DataError(f'{path}: not text ({error}). Copy it again.') from error
  if header.split('\t') != ['text', 'label']:
    raise DataError(
      f'{path}: the first line is {header!r:.120} instead of text, tab, label.'
    )
  rows = []
  for number, line in enumerate(lines, start=2):
    text, _, cell = line.rpartition('\t')
    try:
      value = float(cell)
    except ValueError:
      value = np.nan
    if not text or not abs(value) <= 3:
      raise DataError(
        f'{path}: line {number} is {line!r:.120}; expected a text, a tab and a label '
        'from -3 to 3. Copy the file again; it may be cut.'
      )
    rows.append((text, value))
  return rows
