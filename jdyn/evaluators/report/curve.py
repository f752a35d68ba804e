"""The accuracy-cost curve of a gated model: what each budget buys."""

import dataclasses
from collections.abc import Sequence
from functools import partial

import jax
import numpy as np

from jdyn.evaluators import budget
from jdyn.evaluators.predictions import (
  Predictions,
  executed_macs,
  path_prices,
  reroute,
)
from jdyn.evaluators.report.run import Stage
from jdyn.evaluators.report.scores import Estimate, estimate, proportions
from jdyn.tasks import Task
from jdyn.typing import Outputs

BUDGETS = 15
"""Budgets on the curve, evenly from the cheapest to the dearest path."""


@dataclasses.dataclass(frozen=True)
class Point:
  """One budget, calibrated on validation and spent on test.

  Attributes:
    budget: MACs per example that were asked for.
    score: the task's main score.
    delivered: MACs per example, mean over seeds.
    deviations: of each seed from the budget, as a share of it.
    blind_deviations: the same for the thresholds from validation, without a ledger.
  """

  budget: float
  score: Estimate
  delivered: float
  deviations: Sequence[float]
  blind_deviations: Sequence[float]


def points(stage: Stage, task: Task) -> list[Point]:
  """The curve; empty without gate logits, and for a gate that mixes its paths."""
  valid, test = stage.predictions['valid'], stage.predictions['test']
  if valid.gate_logits is None or test.gate_logits is None:
    return []
  if not all(np.isin(share, (0, 1)).all() for share in test.weights.values()):
    return []
  prices = path_prices(valid, stage.path_macs)
  budgets = np.linspace(min(prices.values()), max(prices.values()), BUDGETS)
  chosen = budget.choose(valid, test, prices, budgets)
  blind = budget.choose(valid, test, prices, budgets, ledger=False)
  shares = proportions(task, test.label).get(task.main_score)
  found = []
  for asked, at, blindly in zip(budgets, chosen, blind, strict=True):
    predictions = reroute(test, at)
    macs = _spent(stage, predictions)
    values = _main_scores(task, predictions.logits, test.label)
    found.append(
      Point(
        budget=float(asked),
        score=estimate(values, shares),
        delivered=float(macs.mean()),
        deviations=(macs / asked - 1).tolist(),
        blind_deviations=(_spent(stage, reroute(test, blindly)) / asked - 1).tolist(),
      )
    )
  return found


def _spent(stage: Stage, predictions: Predictions) -> np.ndarray:
  """Mean MACs per example `[S]`."""
  macs = executed_macs(predictions, stage.path_macs, stage.total_macs)
  return macs.mean(axis=1)


def _main_scores(task: Task, logits: np.ndarray, label: np.ndarray) -> list[float]:
  """The score that counts, of the logits `[S, N, ...]` of each seed."""
  if not task.keeps_logits:
    return [task.kept_scores(one_seed, label)[task.main_score] for one_seed in logits]
  sums = jax.tree.map(np.asarray, _sums(task, logits, label))
  return [
    float(task.scores(jax.tree.map(lambda x, s=s: x[s], sums))[task.main_score])
    for s in range(len(logits))
  ]


@partial(jax.jit, static_argnums=0)
def _sums(task: Task, logits: np.ndarray, label: np.ndarray):
  batch = {'label': label, 'mask': np.ones(len(label), np.float32)}
  return jax.vmap(lambda one: task.sums(Outputs(logits=one), batch))(logits)
