"""What `jdyn.convert` needs to know of a kind of checkpoint."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Converter:
  """A kind of checkpoint.

  Attributes:
    read: `(path, template) -> variables`, with the shapes of our model's variables as
      the template; raises DataError on another file.
    data: options of the dataset with which the model was trained; with others its
      inputs would not be what it knows.
  """

  read: Callable[[Path, Any], Any]
  data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
