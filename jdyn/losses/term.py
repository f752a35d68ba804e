"""The shape of a loss term: optax's (init, update) pair."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from jdyn.typing import Batch, Mean, Outputs


class LossTerm(NamedTuple):
  """One summand of the objective.

  Attributes:
    init: number of training examples -> memory, an empty tuple for most terms.
    apply: `(outputs, batch, hparams, memory, axis_name) -> (Mean, memory)`.
    in_evaluation: whether it is part of the objective on other splits than the one
      that is trained on. A memory of training examples says nothing about those.
  """

  init: Callable[[int], Any]
  apply: Callable[..., tuple[Mean, Any]]
  in_evaluation: bool = True


def stateless(
  fn: Callable[[Outputs, Batch, Mapping[str, jax.Array], str | None], Mean],
) -> LossTerm:
  """Lifts a function `(outputs, batch, hparams, axis_name) -> Mean` without memory."""

  def apply(outputs, batch, hparams, memory, axis_name):
    return fn(outputs, batch, hparams, axis_name), memory

  return LossTerm(lambda num_examples: (), apply)
