"""Your own data: one `.npz` or HDF5 file, any modality names.

    np.savez('data.npz', **{
      'train/text': text, 'train/image': image, 'train/label': label,
      'test/text': ..., 'test/image': ..., 'test/label': ...,
    })

The label says what the task is: whole numbers `[N]` are classes, zeros and ones
`[N, C]` are labels of which any number may be set, and floats `[N]` a regression.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from jdyn.data import hdf5, npy, stand_in
from jdyn.data.absent import blank
from jdyn.data.dataset import PRESENT, DataError, DataSpec, ModalitySpec, Split
from jdyn.data.files import as_ids, require, row_ids
from jdyn.data.holdout import hold_out
from jdyn.data.validate import SPLITS

MAX_CLASSES = 2**20
"""A label of more is no class: a name and a place in the output are made for each."""

_ABOUT = ('length', 'present')  # What an array may say of a modality.
_Part = dict[str, np.ndarray]  # The arrays of one split by name.


@dataclasses.dataclass(frozen=True)
class Arrays:
  """Named arrays in one file, held in memory.

  Floats become float32 and integers int32; bytes (images) stay as they are, and
  nothing is scaled. Float arrays `[N, T, F]` are sequences of `T` steps, of which
  the first `length` are real; give a grey image as `[N, H, W, 1]`.

  Attributes:
    file: name of the file in the root; not used where the root is a file itself.
    valid_fraction: of the training examples, held out (within each class) where
      the file has no `valid` split.
    split_seed: of that choice; part of the dataset, not of a run.
  """

  layout: ClassVar[str] = """\
<root>/data.npz (field file), or data.hdf5, or that file as root, with the arrays
  {train,valid,test}/<modality>         numbers [N, ...], any names
  {train,valid,test}/<modality>_length  optional for sequences: integers [N]
  {train,valid,test}/<modality>_present optional, where some lack it: 0 or 1 [N]
  {train,valid,test}/label              classes i[N], labels 0/1 [N, C], targets f[N]
  {train,valid,test}/id                 optional unique names [N]
valid is optional."""
  bundled: ClassVar[bool] = False

  file: str = 'data.npz'
  valid_fraction: float = 0.15
  split_seed: int = 0

  def spec(self, root: Path) -> DataSpec:
    """Everything is inferred from the file; raises DataError where it cannot be."""
    (path,) = self.files(root)
    parts = _read(path)
    task, num_outputs = _infer_task(path, parts)
    train = parts['train']
    return DataSpec(
      name=path.stem,
      task=task,
      modalities={
        name: ModalitySpec(train[name].shape[1:], sequence=_is_sequence(train[name]))
        for name in _modalities(train)
      },
      num_outputs=num_outputs,
      class_names=()
      if task == 'regression'
      else tuple(str(number) for number in range(num_outputs)),
    )

  def files(self, root: Path) -> list[Path]:
    """The one file; raises DataError if it is absent."""
    if root.is_file():
      return [root]
    return require(root, [self.file], self.layout)

  def load(self, root: Path) -> Mapping[str, Split]:
    """The splits; raises DataError on a damaged file or arrays that do not fit."""
    (path,) = self.files(root)
    parts = _read(path)
    task, _ = _infer_task(path, parts)
    splits = {name: _split(path, name, part, task) for name, part in parts.items()}
    if 'valid' not in splits:
      train = splits['train']
      strata = train.label if task == 'multiclass' else np.zeros(len(train))
      try:
        kept, held = hold_out(strata, self.valid_fraction, self.split_seed)
      except DataError as error:
        raise DataError(f'{path}: {error}') from error
      splits |= {'train': train.select(kept), 'valid': train.select(held)}
    return splits

  def write_stand_in(self, root: Path, seed: int) -> None:
    """A table and a sequence for four classes; 400 training and 120 test examples."""
    rng = np.random.default_rng(seed)
    label = stand_in.labels(rng, 520, 4)
    signal = stand_in.one_hot(label, 4)
    length = rng.integers(4, 11, len(label))
    steps = stand_in.view(rng, signal, 12, clear=0.9, noise=1.0)[:, None]
    steps = steps + 0.5 * rng.standard_normal((len(label), 10, 12))
    real = np.arange(10)[:, None] < length[:, None, None]
    columns = {
      'table': stand_in.view(rng, signal, 24, clear=0.6, noise=1.0),
      'sensor': np.where(real, steps, 0).astype(np.float32),
      'sensor_length': length,
      'label': label,
    }
    arrays = {
      f'{part}/{name}': values[rows]
      for part, rows in (('train', slice(0, 400)), ('test', slice(400, None)))
      for name, values in columns.items()
    }
    path = root / self.file
    if _is_npz(path):
      np.savez(path, **arrays)
    else:
      import h5py

      with h5py.File(path, 'w') as file:
        for name, values in arrays.items():
          file[name] = values


def _is_npz(path: Path) -> bool:
  if path.suffix not in ('.npz', '.h5', '.hdf5'):
    raise DataError(f'{path}: unknown type of file; expected .npz, .h5 or .hdf5.')
  return path.suffix == '.npz'


def _read(path: Path) -> dict[str, _Part]:
  """The arrays by split and name, with checked names and sizes."""
  found = _read_npz(path) if _is_npz(path) else _read_hdf5(path)
  parts: dict[str, _Part] = {}
  for key, array in found.items():
    split, *names = key.split('/')
    if split not in SPLITS or len(names) != 1:
      raise DataError(
        f'{path}: unknown array {key!r:.80}. Names are <split>/<name>, and a split '
        f'is one of {SPLITS}.'
      )
    if array.ndim == 0:
      raise DataError(f'{path}: {key} is a single value; expected one per example.')
    parts.setdefault(split, {})[names[0]] = array
  for split in ('train', 'test'):
    if split not in parts:
      raise DataError(f'{path}: no arrays {split}/<name>. Add this split.')
  for split, part in parts.items():
    _check_part(path, split, part, _modalities(parts['train']))
  return parts


def _read_npz(path: Path) -> dict[str, np.ndarray]:
  try:
    return npy.read_archive(path)
  except (OSError, ValueError) as error:
    raise DataError(
      f'{path}: not a complete .npz file of plain arrays ({error}). Write it again '
      'with np.savez; arrays of objects cannot be read.'
    ) from error


def _read_hdf5(path: Path) -> dict[str, np.ndarray]:
  with hdf5.open_file(path) as file:
    names = [
      f'{split}/{name}'
      for split in hdf5.children(file)
      for name in hdf5.children(file, split)
    ]
    hdf5.check_size(file, names)
    return {name: hdf5.read(file, name) for name in names}


def _modalities(part: _Part) -> list[str]:
  """The names that are neither label, id nor say something of another."""
  said = {f'{name}_{what}' for name in part for what in _ABOUT}
  others = {'label', 'id', *said}
  return sorted({*part} - others)


def _check_part(path: Path, split: str, part: _Part, modalities: list[str]) -> None:
  if 'label' not in part:
    raise DataError(f'{path}: no array {split}/label. Add the labels of this split.')
  if _modalities(part) != modalities or not modalities:
    raise DataError(
      f'{path}: {split} has the modalities {_modalities(part)} and train has '
      f'{modalities}. Every split needs the same, and at least one.'
    )
  size = len(part['label'])
  for name, array in part.items():
    stem, _, what = name.rpartition('_')
    if name in modalities and array.ndim == 1 and what in _ABOUT:
      raise DataError(
        f'{path}: {split}/{name} is about {stem!r}, which there is not. Name it after '
        f'one of {[other for other in modalities if other != name]}.'
      )
    if len(array) != size:
      raise DataError(
        f'{path}: {split}/{name} has {len(array)} rows for {size} labels. '
        'Every array needs one row per example.'
      )


def _infer_task(path: Path, parts: Mapping[str, _Part]) -> tuple[str, int]:
  """The task and the number of outputs, from the labels of all splits."""
  labels = {f'{split}/label': part['label'] for split, part in parts.items()}
  kinds = {label.dtype.kind for label in labels.values()}
  shapes = {label.shape[1:] for label in labels.values()}
  if shapes == {()} and kinds <= set('iub'):
    values = np.concatenate([*labels.values()])
    if values.size and values.min() >= 0 and values.max() < MAX_CLASSES:
      return 'multiclass', max(int(values.max()) + 1, 2)
  elif shapes == {()} and kinds == {'f'}:
    return 'regression', 1
  elif [len(shape) for shape in shapes] == [1] and all(
    np.isin(label, (0, 1)).all() for label in labels.values()
  ):
    return 'multilabel', labels['train/label'].shape[1]
  stated = {name: f'{label.dtype} {label.shape}' for name, label in labels.items()}
  raise DataError(
    f'{path}: no task has the labels {stated}, or their values are out of range. '
    f'Give whole numbers from 0 to {MAX_CLASSES - 1} of shape [N] (classes), zeros and '
    'ones of shape [N, C] (any number of labels), or floats of shape [N] (regression).'
  )


def _is_sequence(array: np.ndarray) -> bool:
  return array.ndim == 3 and array.dtype.kind == 'f'


def _split(path: Path, split: str, part: _Part, task: str) -> Split:
  inputs = {}
  for name in _modalities(part):
    where = f'{path}: {split}/{name}'
    values = _to_32_bits(where, part[name])
    length = part.get(f'{name}_length')
    if _is_sequence(values):
      if length is None:
        length = np.full(len(values), values.shape[1])
      values = {'steps': values, 'length': _to_32_bits(f'{where}_length', length)}
    elif length is not None:
      raise DataError(
        f'{where} has a length, but is {values.dtype} of shape {values.shape} instead '
        'of floats [N, T, F]. Remove the length, or store steps of features.'
      )
    if f'{name}_present' in part:
      present = _mask(f'{where}_present', part[f'{name}_present'])
      values, inputs[f'{PRESENT}{name}'] = blank(values, present), present
    inputs[name] = values
  label = part['label'].astype(np.int32 if task == 'multiclass' else np.float32)
  if 'id' in part:
    return Split(inputs, label, as_ids(part['id'], f'{path}: {split}/id'))
  return Split(inputs, label, row_ids(split, len(label)))


def _mask(where: str, array: np.ndarray) -> np.ndarray:
  if array.ndim != 1 or not np.isin(array, (0, 1)).all():
    raise DataError(f'{where} must hold 0 or 1 per example.')
  return array.astype(bool)


def _to_32_bits(where: str, array: np.ndarray) -> np.ndarray:
  """Float32 for floats, int32 for wide integers, and narrow integers as they are."""
  if array.dtype.kind not in 'fiub':
    raise DataError(f'{where} is of type {array.dtype}; expected numbers.')
  if array.dtype.kind == 'f':
    return array.astype(np.float32)
  if array.dtype.itemsize <= 2:
    return array.astype(array.dtype.newbyteorder('='))
  if array.size and not (array.min() >= -(2**31) and array.max() < 2**31):
    raise DataError(f'{where} has integers of more than 32 bits. Store smaller ones.')
  return array.astype(np.int32)
