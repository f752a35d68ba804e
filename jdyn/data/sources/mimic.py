"""MIMIC-III as MultiBench prepared it: five statics and a day of hourly values.

Liang et al., "MultiBench", NeurIPS Datasets and Benchmarks 2021, after the benchmark
of Purushotham et al. The file `im.pk` belongs to those with access to MIMIC-III. As
in the released loader, values that are NaN or infinite become 0, and the rows are
shuffled with the seed 10 and dealt out: a tenth validation, a tenth test, the rest
training.

Where the released loader differs: it measures means and deviations on all rows, the
test rows among them (`standardise='published'`), divides by 0 where a feature does
not vary (here such a feature becomes 0), and overwrites the labels in place.
"""

import dataclasses
import pickle
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from jdyn.data import stand_in
from jdyn.data.dataset import DataError, DataSpec, ModalitySpec, Split
from jdyn.data.files import as_classes, require, row_ids
from jdyn.data.restricted_pickle import load_arrays

_FILE = 'im.pk'
_STATICS, _HOURS, _SERIES = 5, 24, 12
_SHUFFLE_SEED = 10  # Part of the dataset: it decides who is in the test split.
_HORIZONS = 5
_CODES = {'icd1': (1, 'neoplasms'), 'icd7': (7, 'respiratory')}
_TASKS = ('mortality', *_CODES)


@dataclasses.dataclass(frozen=True)
class MIMIC:
  """MIMIC-III: `static` of 5 values, `series` of 24 hours of 12 values.

  Attributes:
    task: `mortality`, six classes: the first of the label columns 1 to 5 that is
      set, each a longer horizon than the one before, or 0 if none is; `icd1` and
      `icd7`, whether a diagnosis of ICD-9 140 to 239 (neoplasms) or 460 to 519
      (respiratory) was made.
    standardise: whose mean and population deviation scale each feature: those of
      the `train` rows, or of all rows of the file, as `published`. Those of a series
      are over rows and hours.
  """

  layout: ClassVar[str] = f"""\
<root>/{_FILE}  pickle of a dict of arrays: ep_tdata (N, 24, 12),
       adm_features_all (N, 5), adm_labels_all (N, 6), y_icd9 (N, 20 or more)
from: MultiBench (https://github.com/pliang279/MultiBench), for those with access to
      MIMIC-III (https://mimic.mit.edu)"""
  bundled: ClassVar[bool] = False

  task: Literal['mortality', 'icd1', 'icd7'] = 'mortality'
  standardise: Literal['train', 'published'] = 'train'

  def __post_init__(self):
    """Raises ValueError for an option that does not exist."""
    for option, value, choices in (
      ('task', self.task, _TASKS),
      ('standardise', self.standardise, ('train', 'published')),
    ):
      if value not in choices:
        raise ValueError(f'{option}={value!r}; expected one of {choices}.')

  def spec(self, root: Path) -> DataSpec:
    """Fixed by the format; `root` is not read."""
    del root
    if self.task == 'mortality':
      names = ('none', *(f'horizon {k + 1}' for k in range(_HORIZONS)))
    else:
      names = ('absent', _CODES[self.task][1])
    return DataSpec(
      name=f'mimic_{self.task}',
      task='multiclass',
      modalities={
        'series': ModalitySpec((_HOURS, _SERIES), sequence=True),
        'static': ModalitySpec((_STATICS,)),
      },
      num_outputs=len(names),
      class_names=names,
    )

  def files(self, root: Path) -> list[Path]:
    """The pickle; raises DataError if it is absent."""
    return require(root, [_FILE], self.layout)

  def load(self, root: Path) -> Mapping[str, Split]:
    """The splits; raises DataError on anything but arrays of the right shapes."""
    (path,) = self.files(root)
    raw = load_arrays(path)
    if not isinstance(raw, dict):
      raise DataError(f'{path}: no dict of arrays. Expected layout:\n{self.layout}')
    series = _read(path, raw, 'ep_tdata', (None, _HOURS, _SERIES))
    size = len(series)
    static = _read(path, raw, 'adm_features_all', (size, _STATICS))
    label = self._label(path, raw, size)
    rows = split_rows(size)
    if not all(map(len, rows.values())):
      raise DataError(f'{path}: {size} rows; at least 10 are needed for three splits.')
    measured = rows['train'] if self.standardise == 'train' else slice(None)
    steps = _standardise(series, measured)
    everyone = Split(
      inputs={
        'series': {'steps': steps, 'length': np.full(size, _HOURS, np.int32)},
        'static': _standardise(static, measured),
      },
      label=label,
      ids=row_ids('row', size),
    )
    return {name: everyone.select(chosen) for name, chosen in rows.items()}

  def _label(self, path: Path, raw: Mapping[str, Any], size: int) -> np.ndarray:
    """`i32[N]`."""
    if self.task == 'mortality':
      given = _read(path, raw, 'adm_labels_all', (size, 1 + _HORIZONS))
      reached = given[:, 1:] > 0
      return np.where(reached.any(1), 1 + reached.argmax(1), 0).astype(np.int32)
    column, _ = _CODES[self.task]
    codes = _read(path, raw, 'y_icd9', (size, None))
    if codes.shape[1] <= column:
      raise DataError(
        f"{path}: 'y_icd9' has {codes.shape[1]} columns, task={self.task!r} reads "
        f'column {column}. Use the file as MultiBench gives it, with 20.'
      )
    return as_classes(codes[:, column], 2, f"{path}: 'y_icd9', column {column}")

  def write_stand_in(self, root: Path, seed: int) -> None:
    """400 stays; the series shows the labels of more of them than the statics do.

    Some values are missing or infinite and one feature never varies, as files of
    this kind have it.
    """
    rng = np.random.default_rng(seed)
    size = 400
    horizon = stand_in.labels(rng, size, 1 + _HORIZONS)
    codes = rng.random((size, 20)) < 0.4
    chosen = [column for column, _ in _CODES.values()]
    signal = np.concatenate(
      [stand_in.one_hot(horizon, 1 + _HORIZONS), codes[:, chosen]], axis=1
    )
    static = stand_in.view(rng, signal, _STATICS, clear=0.7, noise=0.3)
    constant = stand_in.view(rng, signal, _SERIES, clear=0.9, noise=0.2)
    varying = 0.3 * rng.standard_normal((size, _HOURS, _SERIES))
    series = 50 + 10 * (constant[:, None] + varying)
    series[::9, 3, 2], series[4::50, 7, 5] = np.nan, np.inf
    series[..., -1] = 21.0
    # Who dies within a day dies within two; column 0 is something else.
    labels = horizon[:, None] <= np.arange(1 + _HORIZONS)
    labels[horizon == 0] = False
    labels[:, 0] = rng.random(size) < 0.5
    content = {
      'ep_tdata': series,
      'adm_features_all': static.astype(np.float64),
      'adm_labels_all': labels.astype(np.int64),
      'y_icd9': codes.astype(np.int64),
    }
    with (root / _FILE).open('wb') as file:
      pickle.dump(content, file, protocol=4)


def split_rows(size: int) -> dict[str, np.ndarray]:
  """Rows of the file by split, in the published order.

  Python's generator shuffles by the number of items alone, so that the rows move as
  the examples themselves do in the released loader.
  """
  order = list(range(size))
  random.Random(_SHUFFLE_SEED).shuffle(order)
  valid, test, train = np.split(np.array(order), [size // 10, size // 5])
  return {'train': train, 'valid': valid, 'test': test}


def _read(
  path: Path, raw: Mapping[str, Any], name: str, shape: tuple[int | None, ...]
) -> np.ndarray:
  """The field `name` after its type and shape were found right; None is any size."""
  value = raw.get(name)
  if not isinstance(value, np.ndarray) or value.dtype.kind not in 'fiub':
    found = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
    raise DataError(
      f'{path}: {name!r} is {found}; expected an array of numbers. Fetch the file '
      'again, or write the field as one.'
    )
  fits = value.ndim == len(shape) and all(
    want in (None, size) for want, size in zip(shape, value.shape, strict=True)
  )
  if not fits:
    wanted = ', '.join('N' if n is None else str(n) for n in shape)
    raise DataError(
      f'{path}: {name!r} has shape {value.shape} instead of ({wanted}). Is this the '
      'file that its name says?'
    )
  return value


def _standardise(values: np.ndarray, measured: Any) -> np.ndarray:
  """`f32` features, in deviations from their mean over the rows `measured`.

  NaN and infinity count as 0; a feature that does not vary becomes 0.
  """
  values = np.where(np.isfinite(values), values, 0).astype(np.float64)
  axes = tuple(range(values.ndim - 1))
  mean = values[measured].mean(axes)
  varies = np.ptp(values[measured], axes) > 0
  deviation = np.where(varies, values[measured].std(axes), 1)
  return np.where(varies, (values - mean) / deviation, 0).astype(np.float32)
