"""Word replacement in raw text."""

import dataclasses
from typing import ClassVar


@dataclasses.dataclass(frozen=True)
class Words:
  """Replaces each piece between two spaces with probability `level`.

  It is QMF's text noise, a substitution and no deletion: the underscore is a token of
  BERT's and a word of GloVe's. Of two spaces in a row, the empty piece between them
  counts, as there.

  Attributes:
    word: that takes the place.
  """

  word: str = '_'

  unit: ClassVar[str] = 'share of words'
  max_level: ClassVar[float] = 1.0
  kinds: ClassVar[tuple[str, ...]] = ('text',)

  def __call__(self, x, level, rng, reference):
    """See `Corruption`."""
    del reference
    pieces = x.split(' ')
    chances = rng.random(len(pieces))
    pairs = zip(pieces, chances, strict=True)
    return ' '.join(self.word if chance < level else piece for piece, chance in pairs)
