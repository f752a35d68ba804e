"""Activation functions by name."""

from collections.abc import Callable

import jax

ACTIVATIONS = {
  'hswish': jax.nn.hard_swish,
  'relu': jax.nn.relu,
  'swish': jax.nn.swish,
}


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
  """The function of that name.

  Raises:
    ValueError: there is none.
  """
  if name not in ACTIVATIONS:
    raise ValueError(f'activation={name!r}; expected one of {sorted(ACTIVATIONS)}.')
  return ACTIVATIONS[name]
