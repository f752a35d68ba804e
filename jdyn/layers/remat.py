"""Recomputing what the gradient needs, in place of keeping it."""

from typing import Any

import jax
from flax import linen as nn


def call(module: nn.Module, *inputs: jax.Array | None, train: bool, remat: bool) -> Any:
  """`module(*inputs, train=train)`; with `remat`, the gradient runs it once more.

  Of what is inside nothing but the inputs is then kept for the gradient. Variables,
  numbers and random draws are the same, and statistics are updated once.
  """

  def run(module, *inputs):
    return module(*inputs, train=train)

  return (nn.remat(run) if remat else run)(module, *inputs)
