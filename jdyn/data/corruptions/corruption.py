"""The signature that all corruptions share."""

from typing import Any, ClassVar, Protocol

import numpy as np

from jdyn.data.corruptions.reference import Reference


class Corruption(Protocol):
  """What can be done to one modality of one example.

  A frozen dataclass whose fields are its options. How many numbers it draws may
  not depend on the level: a higher level then adds to what a lower one did.
  """

  unit: ClassVar[str]
  """What the level measures."""

  max_level: ClassVar[float]
  """The greatest level that makes sense."""

  kinds: ClassVar[tuple[str, ...]]
  """Of the modalities that it can be applied to, among `reference.KINDS`."""

  def __call__(
    self, x: Any, level: float, rng: np.random.Generator, reference: Reference
  ) -> Any:
    """The corrupted example; `x` is `f32[..., F]`, or a `str`, and is not changed."""
