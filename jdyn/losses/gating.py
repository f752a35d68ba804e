"""Terms on the gate's weights: what the chosen paths cost, and their balance."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jdyn.cost import expected_macs
from jdyn.losses.term import LossTerm, stateless
from jdyn.typing import Outputs, weighted_mean


def _path_weights(outputs: Outputs, paths: Sequence[str]) -> jax.Array:
  """The gate's weights `[B, K]` in path order."""
  if not outputs.weights:
    raise ValueError(
      'The budget and balance losses need a model with paths; set both to 0.'
    )
  return jnp.stack([outputs.weights[path] for path in paths], axis=-1)


def budget(paths: Sequence[str], costs: Sequence[float], free: float = 0.0) -> LossTerm:
  """The expected cost of the chosen path (DynMM, Eq. 1).

  The original penalises the share of traffic on its second path whatever the
  paths cost; with `costs=(0, 1)` this term is that one. Of exits of a network it
  takes `costs` in GMACs over their number, and charges what exceeds `free`.

  Args:
    paths: names in the order of `costs`.
    costs: one number per path, in any unit; the loss is in the same unit.
    free: what the mean over the global batch may cost without a loss.
  """

  def loss(outputs, batch, hparams, axis_name):
    del hparams
    cost = expected_macs(_path_weights(outputs, paths), jnp.asarray(costs, jnp.float32))
    if not free:
      return weighted_mean(cost, batch['mask'])
    sums = jnp.sum(cost * batch['mask']), jnp.sum(batch['mask'])
    total, count = sums if axis_name is None else jax.lax.psum(sums, axis_name)
    beyond = (total > free * count).astype(jnp.float32)
    return weighted_mean(beyond * (cost - free), batch['mask'])

  return stateless(loss)


def balance(paths: Sequence[str]) -> LossTerm:
  """Load balancing (Switch Transformer, Fedus et al. 2022, Eq. 4).

  `K * sum_k f_k * p_k` with the share `f_k` of the global batch that path `k`
  gets: 1 when even, `K` when one path takes all.
  """

  def loss(outputs, batch, hparams, axis_name):
    del hparams
    weights = _path_weights(outputs, paths)
    mask = batch['mask']
    share, count = jnp.sum(weights * mask[:, None], axis=0), jnp.sum(mask)
    if axis_name is not None:
      share, count = jax.lax.psum((share, count), axis_name)
    share = jax.lax.stop_gradient(share / jnp.maximum(count, 1))
    return weighted_mean(len(paths) * (weights @ share), mask)

  return stateless(loss)
