"""Corrupting a split, and telling which examples it hit."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jdyn.data.corruptions.examples import (
  check_modalities,
  concatenate,
  decoded_blocks,
  present,
  put_back,
  take_apart,
)
from jdyn.data.corruptions.presets import Preset, Treatment, find
from jdyn.data.corruptions.reference import Reference
from jdyn.data.dataset import Split


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
  """A copy of a split, decoded and in memory, with some modalities corrupted.

  Of a sequence, only the steps before `length` are touched, and an example that lacks
  a modality goes on lacking it.

  Args:
    split: usually the test split; it is not changed.
    noise: what to do.
    references: by modality, from `measure` on the training split.

  Raises:
    ValueError: unknown corruption or modality, one that does not fit the other, or a
      level out of range.
  """
  blocks = [inputs for inputs, _ in _corrupted(split, noise, references)]
  return dataclasses.replace(split, inputs=concatenate(blocks), decode=None)


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
  return concatenate([hit for _, hit in _corrupted(split, noise, references)])


def _corrupted(
  split: Split, noise: Noise, references: Mapping[str, Reference]
) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]:
  """Inputs of consecutive parts of a split, and which of them have changed."""
  names = noise.modalities or tuple(sorted(references))
  check_modalities(split, names)
  preset = _checked(noise)
  treatments = {name: _treatment(noise, preset, name, references) for name in names}
  for rows, inputs in decoded_blocks(split):
    hit = {}
    for name, treatment in treatments.items():
      clean = take_apart(inputs[name])
      there = present(inputs, name)
      changed = [
        _apply(treatment, x, noise, f'{name}\0{key}', references[name]) if has else x
        for x, key, has in zip(clean, split.ids[rows], there, strict=True)
      ]
      pairs = zip(clean, changed, strict=True)
      hit[name] = np.array([not np.array_equal(*pair) for pair in pairs])
      inputs[name] = put_back(inputs[name], changed)
    yield inputs, hit


def _apply(
  treatment: Treatment, x: Any, noise: Noise, example: str, reference: Reference
) -> Any:
  """One example after all steps; each draws from a generator of its own."""
  level = noise.level
  if _generator(noise.seed, example, 'touch').random() >= treatment.touch(level):
    return x
  for position, step in enumerate(treatment.steps):
    # At level 0 nothing may change, not even by rounding.
    if strength := step.level(level):
      rng = _generator(noise.seed, example, str(position))
      x = step.corruption(x, strength, rng, reference)
  return x


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
