"""Confidence in the order of how hard examples were so far (QMF, Eq. 14 to 16)."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jdyn.losses.term import LossTerm
from jdyn.losses.weighting import where_present
from jdyn.typing import Batch, Mean, Outputs

_MARGINS = {'paper': 1.0, 'none': 0.0, 'repo': -1.0}


class History(NamedTuple):
  """What is remembered of the training examples, per view: `f32[V, N]` each.

  Attributes:
    total: the sum of its losses at every visit.
    visits: their number.
  """

  total: jax.Array
  visits: jax.Array


class _Rows(NamedTuple):
  """What the term reads of a batch: `[V, B]`, and `index` `[B]`."""

  loss: jax.Array
  confidence: jax.Array
  mask: jax.Array
  index: jax.Array


def rank(
  task,
  views: Sequence[str],
  *,
  margin: str = 'paper',
  statistic: str = 'mean',
  update_first: bool = True,
) -> LossTerm:
  """Of two examples, the harder one is to have the lesser confidence, in every view.

  How hard an example is, kappa, comes from its history of losses, scaled to [0, 1] over
  the training split. Neighbours in the global batch are the pairs, the last and the
  first one too, over those rows that are not padding, whose modality is present and
  whose hardness is known. A pair of examples i and j costs, with confidences c,

      max(0, sign(kappa_i - kappa_j) (c_i - c_j) + |kappa_i - kappa_j|)

  Args:
    task: any of `TASKS`; its loss of a view's logits is what is remembered.
    views: names of the experts with logits and a confidence.
    margin: `paper`, as above; `repo`, the released code, where the sign of the second
      summand is wrong and a pair costs nothing until it is that far out of order;
      `none`, without it.
    statistic: `mean` of an example's losses so far, known from its first visit on.
      `sum`, as released: never divided by the visits, and scaled over all examples,
      visited or not.
    update_first: whether this batch's losses are in the history already, as in the
      released text-image code; in its RGB-D code they are not.

  Raises:
    ValueError: an option is none of these.
  """
  if margin not in _MARGINS:
    raise ValueError(f'margin={margin!r}; expected one of {sorted(_MARGINS)}.')
  if statistic not in ('mean', 'sum'):
    raise ValueError(f"statistic={statistic!r}; expected 'mean' or 'sum'.")
  names = sorted(views)

  def init(num_examples: int) -> History:
    zeros = jnp.zeros((len(names), num_examples), jnp.float32)
    return History(zeros, zeros)

  def apply(outputs, batch, hparams, memory, axis_name):
    del hparams
    own = _rows(task, names, outputs, batch)
    everyone = _gather(own, axis_name)
    updated = _update(memory, everyone)
    history = updated if update_first else memory
    kappa, known = _hardness(history, statistic)
    costs = jax.vmap(_pair_costs, (0, 0, 0, None))(
      everyone.confidence,
      kappa[:, everyone.index],
      everyone.mask * known[:, everyone.index],
      _MARGINS[margin],
    )
    # Every device computes all pairs, and counts those of its own rows.
    costs = _own_rows(costs, own.index.shape[0], axis_name)
    return Mean(jnp.sum(costs), jnp.sum(batch['mask'])), updated

  return LossTerm(init, apply, in_evaluation=False)


def _rows(task, names: Sequence[str], outputs: Outputs, batch: Batch) -> _Rows:
  if not names:
    raise ValueError("loss 'rank' needs a model with experts; set loss.rank=0.")
  if lacking := [n for n in names if n not in outputs.weights]:
    raise ValueError(
      f"loss 'rank' needs a confidence of every expert, and {lacking[0]!r} has none; "
      'use a fusion such as energy_weighted, or set loss.rank=0.'
    )
  losses = [task.loss(outputs.unimodal[name], batch) for name in names]
  mask = [where_present(outputs, name, batch['mask']) for name in names]
  return _Rows(
    jax.lax.stop_gradient(jnp.stack(losses)),
    jnp.stack([outputs.weights[name] for name in names]),
    jnp.stack(mask),
    batch['index'],
  )


def _gather(rows: _Rows, axis_name: str | None) -> _Rows:
  """The rows of all devices, in the order of the global batch."""
  if axis_name is None:
    return rows
  return jax.tree.map(
    lambda x: jax.lax.all_gather(x, axis_name, axis=x.ndim - 1, tiled=True), rows
  )


def _own_rows(costs: jax.Array, size: int, axis_name: str | None) -> jax.Array:
  if axis_name is None:
    return costs
  first = jax.lax.axis_index(axis_name) * size
  return jax.lax.dynamic_slice_in_dim(costs, first, size, axis=1)


def _update(history: History, rows: _Rows) -> History:
  at = history.total.at[:, rows.index]
  visits = history.visits.at[:, rows.index]
  return History(at.add(rows.loss * rows.mask), visits.add(rows.mask))


def _hardness(history: History, statistic: str) -> tuple[jax.Array, jax.Array]:
  """Kappa in [0, 1] of every training example, and 1 where it is known: `[V, N]`."""
  value, known = history.total, jnp.ones_like(history.total)
  if statistic == 'mean':
    value = value / jnp.maximum(history.visits, 1)
    known = (history.visits > 0).astype(value.dtype)
  low = jnp.min(value, axis=1, keepdims=True, where=known > 0, initial=jnp.inf)
  high = jnp.max(value, axis=1, keepdims=True, where=known > 0, initial=-jnp.inf)
  # The released code divides by 0 before the first loss is in.
  wide = high > low
  kappa = jnp.where(wide, (value - low) / jnp.where(wide, high - low, 1.0), 0.0)
  return kappa, known


def _pair_costs(confidence, kappa, mask, margin) -> jax.Array:
  """The cost `[B]` of the pair that begins with each row; masked rows are no part."""
  valid = mask > 0
  order = jnp.argsort(~valid, stable=True)  # Valid rows first, in their order.
  place = jnp.argsort(order, stable=True)
  next_row = order[(place + 1) % jnp.maximum(jnp.sum(valid), 1)]
  gap = kappa - kappa[next_row]
  cost = jnp.sign(gap) * (confidence - confidence[next_row]) + margin * jnp.abs(gap)
  return jnp.where(valid, jnp.maximum(cost, 0.0), 0.0)
