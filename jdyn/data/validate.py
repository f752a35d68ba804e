"""Checks a dataset before the first step, so that no run fails late or lies.

What is checked: that the splits match the specification in names, shapes and
types, labels are in range, values finite, lengths of sequences within bounds, ids
unique, and that no example is in two splits. Memory maps are read in pieces.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np

from jdyn.data.dataset import PRESENT, DataError, DataSpec, ModalitySpec, Split

SPLITS = ('train', 'valid', 'test')

_TASKS = ('multiclass', 'multilabel', 'regression', 'segmentation')
_OUTSIDE = 255
_CHUNK_BYTES = 2**24


def validate(spec: DataSpec, splits: Mapping[str, Split]) -> None:
  """Raises DataError, with a remedy, at the first thing that is not as it should be."""
  _check_spec(spec)
  if sorted(splits) != sorted(SPLITS):
    raise DataError(
      f'{spec.name} has the splits {sorted(splits)}; its source must give {SPLITS}.'
    )
  for name in SPLITS:
    _check_split(spec, f'{spec.name}, split {name}', splits[name])
  for one, other in combinations(SPLITS, 2):
    shared = np.intersect1d(splits[one].ids, splits[other].ids)
    if shared.size:
      raise DataError(
        f'{spec.name}: {shared.size} ids are in {one} and in {other}, the first is '
        f'{shared[0]}. Remove them from one; scores would be too good otherwise.'
      )


def _check_spec(spec: DataSpec) -> None:
  if spec.task not in _TASKS:
    raise DataError(f'{spec.name}: task {spec.task!r}; expected one of {_TASKS}.')
  expected = 0 if spec.task == 'regression' else spec.num_outputs
  if len(spec.class_names) != expected:
    raise DataError(
      f'{spec.name}: {len(spec.class_names)} class names for {expected} classes.'
    )


def _check_split(spec: DataSpec, where: str, split: Split) -> None:
  if not len(split):
    raise DataError(f'{where} is empty. Check the files, or hold out another fraction.')
  _check_ids(where, split)
  check_label = _check_maps if spec.task == 'segmentation' else _check_label
  check_label(spec, where, split)
  masks = {f'{PRESENT}{name}' for name in spec.modalities} & set(split.inputs)
  modalities = sorted(set(split.inputs) - masks)
  if modalities != sorted(spec.modalities):
    raise DataError(
      f'{where} has the modalities {modalities} instead of '
      f'{sorted(spec.modalities)}. Add or remove arrays.'
    )
  _check_presence(where, split, sorted(masks))
  for name in modalities:
    _check_stored(f'{where}, modality {name}', split, split.inputs[name])
  _check_decoded(spec, where, split)


def _check_presence(where: str, split: Split, masks: list[str]) -> None:
  for name in masks:
    mask = split.inputs[name]
    if mask.dtype != bool or mask.shape != (len(split),):
      raise DataError(
        f'{where}, {name}: {mask.dtype} of shape {mask.shape}; expected bool of shape '
        f'{(len(split),)}.'
      )
  if len(masks) == len(split.inputs) - len(masks):
    nothing = ~np.any([split.inputs[name] for name in masks], axis=0)
    if nothing.any():
      raise DataError(
        f'{where}: {nothing.sum()} examples have no modality at all, the first is '
        f'{split.ids[np.argmax(nothing)]}. Remove them.'
      )


def _check_ids(where: str, split: Split) -> None:
  ids = split.ids
  if ids.shape != (len(split),) or ids.dtype.kind not in 'US':
    raise DataError(
      f'{where}: ids are {ids.dtype} of shape {ids.shape}; expected {len(split)} texts.'
    )
  names, counts = np.unique(ids, return_counts=True)
  if counts.max() > 1:
    raise DataError(
      f'{where}: the id {names[np.argmax(counts > 1)]} occurs more than once '
      f'({(counts > 1).sum()} ids do). Give every example its own.'
    )


def _check_label(spec: DataSpec, where: str, split: Split) -> None:
  label, size = split.label, len(split)
  kind, shape = {
    'multiclass': (np.int32, (size,)),
    'multilabel': (np.float32, (size, spec.num_outputs)),
    'regression': (np.float32, (size,)),
  }[spec.task]
  if label.dtype != kind or label.shape != shape:
    raise DataError(
      f'{where}: labels are {label.dtype} of shape {label.shape}; {spec.task} needs '
      f'{np.dtype(kind)} of shape {shape}.'
    )
  if spec.task == 'multiclass':
    wrong = (label < 0) | (label >= spec.num_outputs)
    wanted = f'classes from 0 to {spec.num_outputs - 1}'
  elif spec.task == 'multilabel':
    wrong, wanted = (label != 0) & (label != 1), '0 or 1'
  else:
    wrong, wanted = ~np.isfinite(label), 'finite'
  wrong = wrong.reshape(size, -1).any(axis=1)
  if wrong.any():
    first = np.argmax(wrong)
    raise DataError(
      f'{where}: {wrong.sum()} of {size} labels are out of range, the first is '
      f'{label[first]} of example {split.ids[first]}. They must be {wanted}; '
      'correct or remove them.'
    )


def _check_maps(spec: DataSpec, where: str, split: Split) -> None:
  """Labels of pixels, which may be read as they are indexed."""
  label, size, classes = split.label, len(split), spec.num_outputs
  if label.dtype != np.uint8 or len(label.shape) != 3 or classes >= _OUTSIDE:
    raise DataError(
      f'{where}: labels are {label.dtype} of shape {label.shape}, of {classes} '
      f'classes; segmentation needs uint8 of shape ({size}, height, width), and fewer '
      f'classes than {_OUTSIDE}.'
    )
  (sizes,) = {m.shape[:2] for m in spec.modalities.values()}
  for rows, chunk in _chunks(label):
    inside = chunk != _OUTSIDE
    wrong = inside & (chunk > classes)
    if label.shape[1:] == sizes:
      wrong |= ~inside  # Of the size of the inputs, so nothing is outside.
    height, width = inside[:, :, :1], inside[:, :1]
    wrong |= inside != (height & width)
    wrong |= ~(np.diff(height, axis=1).sum(1, keepdims=True) <= 1)
    wrong |= ~(np.diff(width, axis=2).sum(2, keepdims=True) <= 1)
    wrong |= ~inside[:, :1, :1]
    found = wrong.any(axis=(1, 2))
    if found.any():
      raise DataError(
        f'{where}: the label of example {split.ids[rows][np.argmax(found)]} is none. '
        f'Pixels are 0 for void or 1 to {classes}; {_OUTSIDE} stands right of and '
        'below an image that is smaller than the array, and only there.'
      )


def _chunks(leaf: Any) -> Iterator[tuple[slice, np.ndarray]]:
  """Consecutive parts of an array that may be on disk, of bounded size."""
  width = int(np.prod(leaf.shape[1:])) * leaf.dtype.itemsize
  rows = max(1, _CHUNK_BYTES // max(1, width))
  for start in range(0, len(leaf), rows):
    part = slice(start, start + rows)
    yield part, np.asarray(leaf[part])


def _check_stored(where: str, split: Split, value) -> None:
  """Size, type and finiteness of the arrays of one modality, as stored."""
  leaves = value if isinstance(value, Mapping) else {'values': value}
  for key, leaf in leaves.items():
    numeric = leaf.dtype.kind in 'fiub' and leaf.dtype.isnative
    if len(leaf) != len(split) or not numeric:
      raise DataError(
        f'{where}: {key} are {leaf.dtype} of shape {leaf.shape}; expected numbers for '
        f"{len(split)} examples, in this machine's byte order."
      )
    if leaf.dtype.kind != 'f':
      continue
    finite = np.concatenate(
      [
        np.isfinite(chunk).reshape(len(chunk), -1).all(axis=1)
        for _, chunk in _chunks(leaf)
      ]
    )
    if not finite.all():
      raise DataError(
        f'{where}: {(~finite).sum()} of {len(split)} examples hold NaN or infinity, '
        f'the first is {split.ids[np.argmin(finite)]}. Replace the values or remove '
        'the examples.'
      )


def _check_decoded(spec: DataSpec, where: str, split: Split) -> None:
  """Shape and type of one decoded example, and the lengths of all sequences."""
  inputs = split.select(np.arange(1)).inputs
  if split.decode is not None:
    inputs = split.decode(inputs)
  for name, modality in sorted(spec.modalities.items()):
    value, place = inputs[name], f'{where}, modality {name}'
    if modality.sequence != isinstance(value, Mapping):
      raise DataError(
        f'{place}: a sequence is a mapping of steps and length, anything else one '
        f'array; the specification says sequence={modality.sequence}.'
      )
    array = value['steps'] if modality.sequence else value
    if array.shape[1:] != modality.shape:
      raise DataError(
        f'{place}: an example has shape {array.shape[1:]} instead of {modality.shape}. '
        'All splits need the same shape.'
      )
    if array.dtype.itemsize > 4 or array.dtype.kind not in 'fiub':
      raise DataError(
        f'{place}: a batch has type {array.dtype}; models compute in 32 bits. '
        'Store it as float32 or int32.'
      )
    if modality.sequence:
      _check_length(place, split, modality, split.inputs[name]['length'])


def _check_length(
  where: str, split: Split, modality: ModalitySpec, length: np.ndarray
) -> None:
  longest = modality.shape[0]
  wrong = (length < 1) | (length > longest)
  if length.shape != (len(split),) or length.dtype.kind not in 'iu' or wrong.any():
    first = split.ids[np.argmax(wrong)] if wrong.shape == (len(split),) else '?'
    raise DataError(
      f'{where}: lengths are {length.dtype} of shape {length.shape}, and {wrong.sum()} '
      f'are outside 1 to {longest}, the first at example {first}. Every sequence '
      'needs at least one step and at most as many as are stored.'
    )
