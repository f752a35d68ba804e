"""The size of a map's Jacobian, by random probes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax


def squared_norm(
  f: Callable[[jax.Array], jax.Array], z: jax.Array, probes: jax.Array
) -> jax.Array:
  """Hutchinson's estimate of `|J|_F^2 / N` per example (Bai et al., ICML 2021).

  Gradients reach what `f` closes over, and not `z`.

  Args:
    f: treats the examples separately.
    z: `[B, ...]`, N values per example.
    probes: `[P, B, ...]` of mean 0 and variance 1.

  Returns:
    `[B]`, the mean over the probes of `|v^T J|^2 / N`.
  """
  _, pull = jax.vjp(f, lax.stop_gradient(z))
  pulled = jax.vmap(lambda probe: pull(probe)[0])(probes)
  axes = tuple(range(2, pulled.ndim))
  return jnp.mean(jnp.square(pulled), axis=axes).mean(axis=0)
