"""Corrupting a split, and telling which examples it hit."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jdyn.data.corruptions.examples import (
  are_files,
  blocks,
  check_modalities,
  concatenate,
  decoded,
  present,
  put_back,
  take_apart,
)
from jdyn.data.corruptions.presets import Preset, Treatment, find
from jdyn.data.corruptions.reference import Reference
from jdyn.data.dataset import PRESENT, Split


@dataclasses.dataclass(frozen=True)
class Noise:
  """What is to be done to the inputs of a split.

  Attributes:
    name: one of `CORRUPTIONS` or `PRESETS`.
    level: 0 changes nothing; the unit is the corruption's or the preset's.
    modalities: which to corrupt, each independently; all if empty.
    seed: of the noise.
  """

  name: str
  level: float
  modalities: tuple[str, ...] = ()
  seed: int = 0


def corrupt(split: Split, noise: Noise, references: Mapping[str, Reference]) -> Split:
  """A copy of a split, decoded, with some modalities corrupted.

  It is in memory, unless the split reads its files as they are asked for: then it
  goes on doing so, and corrupts what it reads. Of a sequence, only the steps before
  `length` are touched, and an example that lacks a modality goes on lacking it.

  Args:
    split: usually the test split; it is not changed.
    noise: what to do.
    references: by modality, from `measure` on the training split.

  Raises:
    ValueError: unknown corruption or modality, one that does not fit the other, or a
      level out of range.
  """
  plan = _plan(split, noise, references)
  if are_files(split):
    inputs = {
      name: value if name.startswith(PRESENT) else _CorruptedFiles(split, name, plan)
      for name, value in split.inputs.items()
    }
  else:
    parts = [_corrupted(split, rows, plan)[0] for rows in blocks(split, plan.together)]
    inputs = concatenate(parts)
  return dataclasses.replace(split, inputs=inputs, decode=None)


def touched(
  split: Split, noise: Noise, references: Mapping[str, Reference]
) -> dict[str, np.ndarray]:
  """`bool[N]` by modality, which examples differ in it from what they were.

  It corrupts the split once more and compares, so that it cannot disagree with
  `corrupt`. An example that was to be corrupted and came out the same, an entry that
  was zero already, does not count.

  Args:
    split: as `corrupt` takes it, and so the others.
    noise: what is done.
    references: by modality.

  Raises:
    ValueError: as `corrupt`.
  """
  plan = _plan(split, noise, references)
  return concatenate(
    [_corrupted(split, rows, plan)[1] for rows in blocks(split, plan.together)]
  )


@dataclasses.dataclass(frozen=True)
class _Plan:
  """A `Noise` that fits its split.

  Attributes:
    level: of the preset.
    seed: of the noise.
    together: neighbours that are treated as one.
    choices: the modalities of which one at most is touched; empty if all may be.
    treatments: by modality, for those that are to be corrupted.
    references: by modality.
  """

  level: float
  seed: int
  together: int
  choices: tuple[str, ...]
  treatments: Mapping[str, Treatment]
  references: Mapping[str, Reference]


def _plan(split: Split, noise: Noise, references: Mapping[str, Reference]) -> _Plan:
  names = noise.modalities or tuple(sorted(references))
  check_modalities(split, names)
  preset = _checked(noise)
  everyone = sorted(name for name in split.inputs if not name.startswith(PRESENT))
  return _Plan(
    level=noise.level,
    seed=noise.seed,
    together=preset.together,
    choices=tuple(everyone) if preset.one_of else (),
    treatments={name: _treatment(noise, preset, name, references) for name in names},
    references=references,
  )


def _corrupted(
  split: Split, rows: np.ndarray, plan: _Plan
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """Inputs of some rows, and which of them have changed.

  The rows are whole groups of neighbours that are treated as one.
  """
  inputs, hit = decoded(split, rows), {}
  for name in sorted(plan.treatments.keys() & inputs.keys()):
    clean = take_apart(inputs[name])
    there, changed = present(inputs, name), list(clean)
    for start in range(0, len(rows), plan.together):
      group = range(start, min(start + plan.together, len(rows)))
      if group := [place for place in group if there[place]]:
        key = str(split.ids[rows[group[0]]])
        new = _apply(plan, name, key, [clean[place] for place in group])
        for place, example in zip(group, new, strict=True):
          changed[place] = example
    pairs = zip(clean, changed, strict=True)
    hit[name] = np.array([not np.array_equal(*pair) for pair in pairs])
    inputs[name] = put_back(inputs[name], changed)
  return inputs, hit


def _apply(plan: _Plan, name: str, key: str, examples: list[Any]) -> list[Any]:
  """One modality of a group after all steps; each draws from its own generator."""
  treatment, example = plan.treatments[name], f'{name}\0{key}'
  if plan.choices:
    draw = _generator(plan.seed, key, 'choice').integers(len(plan.choices) + 1)
    if [*plan.choices, None][draw] != name:
      return examples
  if _generator(plan.seed, example, 'touch').random() >= treatment.touch(plan.level):
    return examples
  x = examples[0] if plan.together == 1 else np.stack(examples)
  for position, step in enumerate(treatment.steps):
    # At level 0 nothing may change, not even by rounding.
    if strength := step.level(plan.level):
      rng = _generator(plan.seed, example, str(position))
      x = step.corruption(x, strength, rng, plan.references[name])
  return [x] if plan.together == 1 else list(x)


class _CorruptedFiles:
  """A modality that is read, decoded and corrupted when it is indexed: `[N, ...]`."""

  def __init__(self, split: Split, name: str, plan: _Plan):
    self._split, self._name, self._plan = split.only((name,)), name, plan
    (first,) = decoded(self._split, np.arange(1))[name]
    self.shape, self.dtype = (len(split), *first.shape), first.dtype

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, rows: Any) -> np.ndarray:
    size = self._plan.together
    chosen = np.arange(len(self))[rows]
    groups, group = np.unique(chosen // size, return_inverse=True)
    wanted = (groups[:, None] * size + np.arange(size)).ravel()
    wanted = wanted[wanted < len(self)]  # The last group may not be full.
    inputs, _ = _corrupted(self._split, wanted, self._plan)
    return inputs[self._name][group.reshape(chosen.shape) * size + chosen % size]

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    del copy  # What is read is new in any case.
    return self[:].astype(dtype or self.dtype, copy=False)


def _generator(seed: int, example: str, use: str) -> np.random.Generator:
  digest = hashlib.sha256(f'{seed}\0{example}\0{use}'.encode()).digest()
  return np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], '<u8')))


def _checked(noise: Noise) -> Preset:
  """What its name stands for, if the level is within range."""
  preset = find(noise.name)
  if not 0 <= noise.level <= preset.max_level:
    raise ValueError(
      f'level={noise.level} of {noise.name!r} must lie in [0, {preset.max_level}] '
      f'({preset.unit}).'
    )
  return preset


def _treatment(
  noise: Noise, preset: Preset, modality: str, references: Mapping[str, Reference]
) -> Treatment:
  """What is done to one modality."""
  if modality not in references:
    raise ValueError(
      f'references lacks {modality!r}; measure it on the training split.'
    )
  kind = references[modality].kind
  if kind not in preset.kinds:
    raise ValueError(
      f'{noise.name!r} is for modalities of kind {sorted(preset.kinds)}, but '
      f'{modality!r} is of kind {kind!r}. Name the modalities to corrupt, or take '
      "another corruption; 'severity' is for all kinds."
    )
  return preset.kinds[kind]
