"""The budget dial: one trained gate, spending per example what the user asks for.

A path is chosen by `argmax_k(logits_k - price * costs_k)` with costs relative to the
dearest path: the price is the Lagrange multiplier of the budget. Price 0 is the
gate's own choice, and for two paths a price is a threshold on the margin of the
logits. The mean cost never rises with the price: if `k` wins at price `p` and `j` at
`q > p`, the two inequalities add up to `(q - p) * (costs_k - costs_j) >= 0`.

The table of prices comes from the validation split. By itself it misses a budget on
other examples, by chance and because splits differ. So a ledger corrects it as it
goes: an example's price is looked up at the budget plus what earlier examples have
left over. It knows what those cost, and no label and no later example.

A path whose solver stops by itself is priced, in MACs, at what it takes on average on
the validation split.

No source: DynMM's budget is fixed when its gate is trained.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdyn.evaluators.predictions import Predictions, reroute

POINTS = 129
"""Target costs in a table of prices: steps of less than 1 % of the range."""

HORIZON = (8, 64)
"""Shortest and longest time, in examples, over which the ledger settles a balance."""

PRECISION = 0.005
"""Share of the total that may still be owed, as one standard deviation.

In the long run a ledger owes `sqrt(horizon / 2)` standard deviations of an example's
cost. So the horizon is the longest, within its limits, at which that is no more than
this share of what was allowed so far: a long horizon leaves the choice less to luck.
"""

_UNITS = {'': ('macs', 1.0), 'k': ('macs', 1e3), 'M': ('macs', 1e6)}
_UNITS |= {'G': ('macs', 1e9), 'ms': ('ms', 1.0)}


class Budget(NamedTuple):
  """What an example may cost on average; `unit` is `macs` or `ms`."""

  value: float
  unit: str


def parse_budget(text: str | float) -> Budget:
  """A budget per example: '12M', '1.5G', '900k', '5e6' or 5e6 MACs, or '0.3ms'.

  Raises:
    ValueError: it is nothing of that kind, or not positive.
  """
  found = re.fullmatch(r'([\d.]+(?:e[+-]?\d+)?) ?([a-zA-Z]*)', str(text).strip())
  number, suffix = found.groups() if found else ('', None)
  try:
    value = float(number)
  except ValueError:
    value = math.nan
  if suffix not in _UNITS or not 0 < value < math.inf:
    raise ValueError(
      f'budget={text!r} is no cost per example; give MACs as 12M, 1.5G, 900k or 5e6, '
      'or milliseconds as 0.3ms.'
    )
  unit, scale = _UNITS[suffix]
  return Budget(value * scale, unit)


def check_budget(budget: Budget, costs: Mapping[str, float]) -> None:
  """Checks that some mixture of the paths costs `budget`.

  Args:
    budget: from `parse_budget`.
    costs: of an example by path, in the budget's unit.

  Raises:
    ValueError: there are no paths to choose from, or the budget is out of reach.
  """
  if not costs:
    raise ValueError(
      'budget: the model has no paths to choose from, so it always costs the same; '
      'leave the budget out.'
    )
  cheapest, dearest = min(costs, key=costs.get), max(costs, key=costs.get)
  if not costs[cheapest] <= budget.value <= costs[dearest]:
    low, asked, high = (
      f'{cost:,.0f} MACs' if budget.unit == 'macs' else f'{cost:.4g} ms'
      for cost in (costs[cheapest], budget.value, costs[dearest])
    )
    raise ValueError(
      f'budget={asked} per example cannot be met: the cheapest path, {cheapest!r}, '
      f'costs {low}, and the dearest, {dearest!r}, {high}.'
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dial:
  """A table of prices, and the ledger. All costs are relative to the dearest path.

  float32 is enough: the ledger holds the difference between what was allowed and what
  was spent, which stays within a few examples of 0, and never a total.

  Attributes:
    targets: `[POINTS]` mean costs, from the cheapest path to the dearest.
    prices: `[POINTS]` at which the validation split costs that.
    balance: what earlier examples have left over; 0 at first, negative if in debt.
    drift: how far targets are off on these examples, as the ledger has learnt it.
    seen: number of examples so far.
  """

  targets: jax.Array
  prices: jax.Array
  balance: jax.Array
  drift: jax.Array
  seen: jax.Array


@jax.jit
def calibrate(gate_logits: jax.Array, costs: jax.Array) -> Dial:
  """A dial from the gate's logits on the validation split, with an empty ledger.

  Args:
    gate_logits: `[N, K]`.
    costs: `[K]`, positive, in any unit.
  """
  logits = jnp.asarray(gate_logits, jnp.float32)
  costs = jnp.asarray(costs, jnp.float32)
  enter, leave = jax.vmap(_chosen_between, in_axes=(0, None))(logits, costs)
  costs = costs / costs.max()
  targets = jnp.linspace(costs.min(), costs.max(), POINTS)
  enter, leave = jnp.sort(enter, axis=0).T, jnp.sort(leave, axis=0).T
  # The mean cost changes at these prices alone.
  prices = jnp.sort(leave, axis=None)

  def passed(x):
    return jnp.searchsorted(x, prices, side='right')

  chosen = jax.vmap(passed)(enter) - jax.vmap(passed)(leave)
  cost = costs @ chosen.astype(jnp.float32) / len(logits)
  last = jnp.max(prices, initial=0.0, where=jnp.isfinite(prices))
  first = jnp.searchsorted(-cost, -targets)
  prices = jnp.minimum(prices[jnp.minimum(first, prices.size - 1)], last)
  empty = jnp.zeros(())
  return Dial(
    targets, prices, balance=empty, drift=empty, seen=jnp.zeros((), jnp.int32)
  )


def _chosen_between(logits: jax.Array, costs: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The prices `[K]` from which and up to which each path of one example is chosen.

  A path is chosen once it has overtaken all dearer ones, and until a cheaper one
  overtakes it. Both are infinite for a path that never is.
  """
  # Of relative costs, XLA's fused multiply-add may leave a gap between equal ones.
  gap = costs[:, None] - costs[None]
  lead = logits[:, None] - logits[None]
  tie = costs.max() * lead / jnp.where(gap == 0, 1.0, gap)
  enter = jnp.max(tie, axis=1, initial=-jnp.inf, where=gap < 0)
  leave = jnp.min(tie, axis=1, initial=jnp.inf, where=gap > 0)
  first = jnp.tri(len(costs), k=-1, dtype=bool)  # [k, j]: j comes before k.
  beaten = jnp.any((gap == 0) & ((lead < 0) | ((lead == 0) & first)), axis=1)
  never = beaten | (enter >= leave)
  return jnp.where(never, jnp.inf, enter), jnp.where(never, jnp.inf, leave)


@jax.jit
def spend(
  dial: Dial, gate_logits: jax.Array, costs: jax.Array, budget: jax.Array | float
) -> tuple[jax.Array, Dial]:
  """Chooses paths, one example after another, so that they cost `budget` on average.

  Batches are as one: `spend` on a batch and then, with the dial that it returns, on
  the next one chooses what it would choose on both together.

  Args:
    dial: from `calibrate`, or the one that the batch before has returned.
    gate_logits: `[B, K]`.
    costs: `[K]`, those that the dial was calibrated with.
    budget: per example, in the unit of `costs`; beyond the cheapest or the dearest
      path it is taken for that path's cost.

  Returns:
    The path `i32[B]` of each example, and the dial for the next batch.
  """
  costs, budget = _relative(costs, budget)

  def step(dial, logits):
    path = _choose(dial, logits, costs, budget)
    return _settle(dial, costs, costs[path], budget), path

  dial, paths = jax.lax.scan(step, dial, gate_logits)
  return paths, dial


@jax.jit
def spend_blindly(
  dial: Dial, gate_logits: jax.Array, costs: jax.Array, budget: jax.Array | float
) -> jax.Array:
  """What the thresholds from validation choose without a ledger, `i32[B]`."""
  costs, budget = _relative(costs, budget)
  return jax.vmap(lambda logits: _choose(dial, logits, costs, budget))(gate_logits)


def _relative(costs, budget) -> tuple[jax.Array, jax.Array]:
  """Costs and budget as shares of the dearest path's cost."""
  costs, budget = jnp.asarray(costs, jnp.float32), jnp.asarray(budget, jnp.float32)
  shares = costs / costs.max()
  # An end must be met exactly: a rounding error per example would add up.
  share = jnp.where(budget <= costs.min(), shares.min(), budget / costs.max())
  return shares, jnp.where(budget >= costs.max(), shares.max(), share)


def _choose(dial: Dial, logits: jax.Array, costs: jax.Array, budget: jax.Array):
  """The path of one example with logits `[K]`."""
  target = budget + dial.drift + dial.balance / _horizon(dial, costs, budget)
  price = jnp.interp(target, dial.targets, dial.prices)
  inside = jnp.argmax(logits - price * costs)
  # At its ends the table holds for all logits, also for those beyond validation's. So
  # the ledger can always be settled, even where no price divides equal logits.
  low, high = costs.min(), costs.max()
  end = jnp.where(target <= low, low, high)
  at_end = jnp.argmax(jnp.where(costs == end, logits, -jnp.inf))
  return jnp.where((low < target) & (target < high), inside, at_end).astype(jnp.int32)


def _settle(dial: Dial, costs, cost: jax.Array, budget: jax.Array) -> Dial:
  """Books one example.

  `balance / horizon` alone would stay in debt on examples that cost more than those of
  validation; `drift` sums it up until it is 0 (a proportional-integral controller,
  critically damped).
  """
  balance = dial.balance + budget - cost
  drift = dial.drift + balance / (2 * _horizon(dial, costs, budget)) ** 2
  return dataclasses.replace(dial, balance=balance, drift=drift, seen=dial.seen + 1)


def _horizon(dial: Dial, costs: jax.Array, budget: jax.Array) -> jax.Array:
  """Examples over which a balance is settled; see `PRECISION`."""
  # Of an example that takes either end; what lies between deviates less.
  variance = (budget - costs.min()) * (costs.max() - budget)
  allowed = PRECISION * budget * dial.seen
  return jnp.clip(2 * allowed**2 / jnp.maximum(variance, 1e-12), *HORIZON)


def gate_logits(predictions: Predictions) -> np.ndarray:
  """The logits `[S, N, K]` that a budget needs.

  Raises:
    ValueError: there are none.
  """
  if predictions.gate_logits is None:
    raise ValueError(
      'A budget needs the logits of the gate, and these predictions of split '
      f'{predictions.about.get("split")!r} have none: the model has no gate that '
      'sees all paths at once, or an earlier version wrote them; train again.'
    )
  return predictions.gate_logits


def choose(
  valid: Predictions,
  predictions: Predictions,
  costs: Mapping[str, float],
  budgets: Sequence[float],
  *,
  ledger: bool = True,
) -> np.ndarray:
  """The paths `[G, S, N]` that each of `G` budgets chooses for all seeds.

  Args:
    valid: of the validation split; nothing but its gate logits is used.
    predictions: of the split to choose for, in the order of its examples.
    costs: of an example by path (`jdyn.evaluators.predictions.path_prices`).
    budgets: per example, in the unit of `costs`.
    ledger: correct as it goes, or trust the thresholds from validation.

  Raises:
    ValueError: there are no gate logits, or those of other paths.
  """
  logits = gate_logits(valid), gate_logits(predictions)
  for split in (valid, predictions):
    if set(split.paths) != set(costs) or split.paths != valid.paths:
      raise ValueError(f'Gate logits of paths {split.paths}; expected {tuple(costs)}.')
  of_path = np.array([costs[path] for path in valid.paths], np.float32)
  run = _spend_all if ledger else _spend_all_blindly
  budgets = np.asarray(budgets, np.float32)
  return np.asarray(run(*logits, of_path, budgets))


def at_budget(
  valid: Predictions,
  predictions: Predictions,
  costs: Mapping[str, float],
  budget: Budget,
) -> Predictions:
  """What a model would have predicted at a budget; see `choose`.

  Raises:
    ValueError: as `check_budget` and `choose`.
  """
  check_budget(budget, costs)
  chosen = choose(valid, predictions, costs, [budget.value])[0]
  at = reroute(predictions, chosen)
  about = {**at.about, f'budget_{budget.unit}': budget.value}
  return dataclasses.replace(at, about=about)


def _over_seeds_and_budgets(one):
  """`one(valid, logits, costs, budget)` for `[S, ...]` logits and `[G]` budgets."""
  seeds = jax.vmap(one, in_axes=(0, 0, None, None))
  return jax.jit(jax.vmap(seeds, in_axes=(None, None, None, 0)))


_spend_all = _over_seeds_and_budgets(
  lambda valid, logits, costs, budget: spend(
    calibrate(valid, costs), logits, costs, budget
  )[0]
)
_spend_all_blindly = _over_seeds_and_budgets(
  lambda valid, logits, costs, budget: spend_blindly(
    calibrate(valid, costs), logits, costs, budget
  )
)
