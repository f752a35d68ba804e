"""What a dataset is: its specification, its splits and where they came from."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

PRESENT = 'present/'
"""Before the name of a modality: the mask of the examples that have it."""


class DataError(ValueError):
  """A file or array that is not what its format promises.

  The message names the file, the field and what to do about it.
  """


@dataclasses.dataclass(frozen=True)
class ModalitySpec:
  """Shape and kind of one modality of one example (no batch axis).

  Attributes:
    shape: of one example; `(T, F)` for a sequence.
    sequence: True if a batch holds `{'steps', 'length'}` (see `jdyn.typing`).
  """

  shape: tuple[int, ...]
  sequence: bool = False


@dataclasses.dataclass(frozen=True)
class DataSpec:
  """What every consumer of a dataset may rely on.

  Attributes:
    name: of the dataset.
    task: `multiclass`, `multilabel`, `regression` or `segmentation`.
    modalities: by name.
    num_outputs: classes or labels; 1 for regression.
    class_names: `num_outputs` names; empty for regression.
    class_weights: how much training counts: for `multilabel`, the absence and the
      presence of each label; for `segmentation`, a pixel of each class. Empty for 1.
      Scores do not weigh.
  """

  name: str
  task: str
  modalities: Mapping[str, ModalitySpec]
  num_outputs: int
  class_names: tuple[str, ...] = ()
  class_weights: tuple[Any, ...] = ()


@dataclasses.dataclass(frozen=True)
class Split:
  """The examples of one split, in a fixed order.

  Attributes:
    inputs: by modality: an array `[N, ...]`, or a mapping of such arrays. A
      leaf may be a memory map, or read files as it is indexed: with an integer array
      per batch, or with a slice.
      A modality that some examples lack is zero there, and `present/<modality>`
      beside it is `bool[N]`.
    label: `i32[N]` (multiclass), `f32[N, C]` (multilabel), `f32[N]` (regression) or
      `u8[N, h, w]` (segmentation): 0 for void, one more than the class elsewhere,
      and 255 right of and below an image that is smaller than the array. Such labels
      may be read as they are indexed, too. They are of the size of the inputs, or
      all examples are judged at the size of their own label.
    ids: `N` stable and unique names of examples, as a NumPy string array.
    decode: applied to the indexed inputs of a batch; it may only use operators
      and methods that NumPy and JAX arrays share, since it runs on either (and
      multiply by a reciprocal, since XLA rounds a division otherwise). Some of
      the inputs may be left out, and others may have been added.
    collate: like `decode`, but the result for one example may depend on the
      others of its batch (padding to the longest). Such data is fed by the host.
    augment: `(id, generator) -> (inputs, label)`: how training draws an example, as
      stored but without the axis of the batch; None if it takes what is stored. The
      generator is a function of seed, step and row. Such data is fed by the host.
    per_seed: names of inputs whose second axis is the seed of a run over several
      seeds: `[N, S, ...]`.
  """

  inputs: Mapping[str, Any]
  label: np.ndarray
  ids: np.ndarray
  decode: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
  collate: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
  augment: Callable[[str, np.random.Generator], tuple[Any, np.ndarray]] | None = None
  per_seed: tuple[str, ...] = ()

  def __len__(self) -> int:
    """The number of examples."""
    return len(self.label)

  def select(self, rows: np.ndarray) -> 'Split':
    """The sub-split of the given rows, in their order."""
    inputs = {
      name: (
        {key: leaf[rows] for key, leaf in value.items()}
        if isinstance(value, Mapping)
        else value[rows]
      )
      for name, value in self.inputs.items()
    }
    return dataclasses.replace(
      self, inputs=inputs, label=self.label[rows], ids=self.ids[rows]
    )

  def for_seed(self, position: int) -> 'Split':
    """This split as the seed at `position` of the run sees it."""
    own = {name: self.inputs[name][:, position] for name in self.per_seed}
    return dataclasses.replace(self, inputs={**self.inputs, **own}, per_seed=())

  def only(self, names: Sequence[str]) -> 'Split':
    """This split with no other inputs than `names`, and all masks of presence."""
    masks = [name for name in self.inputs if name.startswith(PRESENT)]
    inputs = {name: self.inputs[name] for name in (*names, *masks)}
    kept = tuple(name for name in self.per_seed if name in inputs)
    return dataclasses.replace(self, inputs=inputs, per_seed=kept)


class Source(Protocol):
  """A reader of one on-disk format; the fields of a source are its options.

  A source is a frozen dataclass whose fields have defaults, so that a config
  entry `{'name': 'mosi', 'label': 'real'}` is `Mosi(label='real')`.
  """

  layout: str
  """Class attribute: the expected files, and how to get them. Shown in errors."""

  bundled: bool
  """Class attribute: the data ship inside a dependency and need no root."""

  def spec(self, root: Path) -> DataSpec:
    """The specification; `root` is read only where the files decide it."""

  def files(self, root: Path) -> list[Path]:
    """The files that `load` reads, for hashing; raises DataError if one is absent."""

  def load(self, root: Path) -> Mapping[str, Split]:
    """The splits `train`, `valid` and `test`; raises DataError on bad files."""

  def write_stand_in(self, root: Path, seed: int) -> None:
    """Writes a small synthetic dataset in the real on-disk format."""


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A loaded dataset.

  Attributes:
    spec: its specification.
    splits: `train`, `valid`, `test`.
    origin: `real`, `bundled` (ships inside a dependency) or
      `synthetic stand-in`; stamped on every result.
    hashes: SHA-256 by file, relative to the root.
  """

  spec: DataSpec
  splits: Mapping[str, Split]
  origin: str
  hashes: Mapping[str, str]
