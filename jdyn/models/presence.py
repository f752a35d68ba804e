"""Where a model has what it needs (`jdyn.ops.presence`).

Every model has a method `available(inputs)`: whether it can judge the examples, a
`Flag`. A modality that lacks for all of a batch can be left out of the inputs; what
reads it alone is then not computed.
"""

from collections.abc import Iterable

import jax

from jdyn.ops.presence import present_key
from jdyn.typing import Modalities

Flag = bool | jax.Array
"""Whether something holds: for everyone, or `bool[B]`."""


def presence(inputs: Modalities, modality: str) -> Flag:
  """Where a modality is there."""
  return modality in inputs and inputs.get(present_key(modality), True)


def all_of(flags: Iterable[Flag]) -> Flag:
  """Where all hold."""
  found: Flag = True
  for flag in flags:
    found = flag if found is True else found & flag
  return found


def any_of(flags: Iterable[Flag]) -> Flag:
  """Where any holds."""
  found: Flag = False
  for flag in flags:
    found = flag if found is False else found | flag
  return found
