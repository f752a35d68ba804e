"""Do the weights of a fusion know which modality errs? (Zhang et al., ICML 2023)

QMF's Theorem 1 bounds the error of a fusion `sum_m w_m f_m` by terms of each expert m:
E(w_m) times its empirical error (Term-L), its complexity, and Cov(w_m, loss_m)
(Term-Cov), which is 0 for constant weights. So weights help where they fall as the loss
rises; Theorem 2 promises that dynamic weights beat static ones of the same mean if they
do for every m. Here these quantities are measured on a split.

Mappings are by expert; their arrays are `[S, N]` over seeds and examples unless said
otherwise.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jdyn.evaluators.predictions import Predictions, per_example
from jdyn.metrics import correlation, paired
from jdyn.metrics.correlation import Correlation
from jdyn.metrics.paired import Difference, McNemar
from jdyn.metrics.roc_auc import roc_auc
from jdyn.tasks import Task

ByExpert = Mapping[str, np.ndarray]
"""Arrays by the name of the expert, which is that of its modality if it has one."""


def weighted_experts(predictions: Predictions) -> tuple[str, ...]:
  """The experts whose weights say how far they are trusted, sorted.

  None where all weights are 0 or 1, which a gate or a missing modality makes, and where
  they are the same for every example.
  """
  weights = predictions.weights
  names = sorted(set(weights) & set(predictions.expert_logits))
  chosen = all(np.isin(weights[name], (0, 1)).all() for name in names)
  static = all(np.allclose(np.ptp(weights[name], axis=1), 0) for name in names)
  return () if chosen or static else tuple(names)


def expert_losses(predictions: Predictions, task: Task) -> dict[str, np.ndarray]:
  """The task's loss of each expert alone."""
  return {
    name: per_example(task.loss, predictions.expert_logits[name], predictions.label)
    for name in weighted_experts(predictions)
  }


def fusion_covariance(weights: ByExpert, losses: ByExpert) -> dict[str, np.ndarray]:
  """Cov(w_m, loss_m) over the examples, `[S]`; their sum over m is Term-Cov.

  Negative is good: an expert has less weight where it errs.
  """
  return {
    name: np.mean(_centered(weights[name]) * _centered(loss), axis=1)
    for name, loss in losses.items()
  }


@dataclasses.dataclass(frozen=True)
class BoundTerms:
  """Terms of Theorem 1 that data show, `[S]` each; complexities are left out.

  Their sum is the mean over examples of `sum_m w_m loss_m`.

  Attributes:
    loss: Term-L, the sum over experts of E(w_m) E(loss_m).
    covariance: Term-Cov.
  """

  loss: np.ndarray
  covariance: np.ndarray


def bound_terms(weights: ByExpert, losses: ByExpert) -> BoundTerms:
  """Term-L and Term-Cov, with the mean loss for the empirical error."""
  means = [weights[name].mean(axis=1) * losses[name].mean(axis=1) for name in losses]
  return BoundTerms(
    np.sum(means, axis=0),
    np.sum(list(fusion_covariance(weights, losses).values()), axis=0),
  )


def weight_loss_correlations(
  weights: ByExpert, losses: ByExpert, resamples: int = correlation.RESAMPLES
) -> dict[str, dict[str, Correlation]]:
  """By expert, `pearson`, `spearman` and `kendall` of weight and loss.

  Each is the mean over the seeds, with a bootstrap interval over the examples.
  """
  return {
    name: {
      kind: correlation.correlate(weights[name], loss, kind, resamples)
      for kind in correlation.COEFFICIENTS
    }
    for name, loss in losses.items()
  }


def mean_match_gap(
  weights: ByExpert, static: Mapping[str, float] | None = None
) -> dict[str, np.ndarray]:
  """How far the mean weight is from a static one, `[S]`.

  Theorem 2 compares a dynamic fusion only to a static one of the same mean weights.

  Args:
    weights: of the dynamic fusion.
    static: of the static one; those of the plain average if None.
  """
  average = 1 / len(weights)
  return {
    name: weight.mean(axis=1) - (average if static is None else static[name])
    for name, weight in weights.items()
  }


def negative_weight_rate(weights: ByExpert) -> dict[str, np.ndarray]:
  """The share of the examples that vote against what the expert says, `[S]`.

  Energy weights are negative where log-sum-exp of the logits is.
  """
  return {name: np.mean(weight < 0, axis=1) for name, weight in weights.items()}


def static_counterpart(predictions: Predictions) -> Predictions:
  """The same model with each expert's weight replaced by its mean over the split.

  An expert that is absent from some examples has weight 0 there, and its mean here.

  Raises:
    ValueError: the logits are not `sum_m w_m f_m`, to 0.1 %, so there is no such model.
  """
  weights, experts = predictions.weights, predictions.expert_logits
  if not weights or not set(weights) <= set(experts):
    raise ValueError(
      f'static_counterpart: weights of {sorted(weights)}, but logits of experts '
      f'{sorted(experts)}; only a fusion that weighs the logits of experts has one.'
    )
  votes = [weights[name][..., None] * experts[name] for name in sorted(weights)]
  scale = np.max(np.sum(np.abs(votes), axis=0))
  error = np.max(np.abs(np.sum(votes, axis=0) - predictions.logits))
  if not error <= 1e-3 * scale:
    raise ValueError(
      f'static_counterpart: logits differ by up to {error:.3g} from the weighted sum '
      "of the experts' logits, so this fusion has none; use one that sums votes, such "
      'as energy_weighted, learned_confidence or average.'
    )
  static = {
    name: np.broadcast_to(weight.mean(axis=1, keepdims=True), weight.shape)
    for name, weight in weights.items()
  }
  logits = sum(static[name][..., None] * experts[name] for name in sorted(static))
  return dataclasses.replace(predictions, logits=logits, weights=static)


@dataclasses.dataclass(frozen=True)
class Gain:
  """What dynamic weights gain over static ones of the same mean.

  Attributes:
    correct: dynamic minus static, in the task's `correct`: accuracy for classes.
    loss: dynamic minus static.
    by_seed: discordant answers, dynamic first; an answer is right above one half.
  """

  correct: Difference
  loss: Difference
  by_seed: Sequence[McNemar]


def dynamic_minus_static(predictions: Predictions, task: Task) -> Gain:
  """The direct test of Theorem 2, on one split.

  Raises:
    ValueError: as `static_counterpart`.
  """
  static = static_counterpart(predictions)
  label = predictions.label
  right = [per_example(task.correct, of.logits, label) for of in (predictions, static)]
  loss = [per_example(task.loss, of.logits, label) for of in (predictions, static)]
  return Gain(
    correct=paired.paired_bootstrap(np.subtract(*right)),
    loss=paired.paired_bootstrap(np.subtract(*loss)),
    by_seed=[paired.mcnemar(*seed) for seed in zip(*right, strict=True)],
  )


@dataclasses.dataclass(frozen=True)
class SeverityCurve:
  """Mean weights against the severity of a corruption.

  Attributes:
    levels: ascending, `[L]`.
    weights: by expert, `[L, S]`.
  """

  levels: tuple[float, ...]
  weights: ByExpert


def weights_by_severity(by_level: Mapping[float, Predictions]) -> SeverityCurve:
  """How the mean weights follow a corruption; those of what it hits should fall.

  Args:
    by_level: predictions of one model on the same examples.

  Raises:
    ValueError: the examples or the weights are not the same at all levels.
  """
  levels = sorted(by_level)
  first = by_level[levels[0]]
  for level in levels[1:]:
    other = by_level[level]
    if not np.array_equal(other.ids, first.ids) or set(other.weights) != set(
      first.weights
    ):
      raise ValueError(
        f'weights_by_severity: level {level:g} has other examples or experts than '
        f'level {levels[0]:g}; give predictions of one model on one split.'
      )
  return SeverityCurve(
    tuple(levels),
    {
      name: np.stack([by_level[level].weights[name].mean(axis=1) for level in levels])
      for name in sorted(first.weights)
    },
  )


def selective_weight_auroc(
  weights: ByExpert, touched: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Do weights tell where their modality is clean? `[S]` areas under the ROC curve.

  The chance that an example with a clean modality m has a greater w_m than one with a
  corrupted one: 0.5 for weights that do not see it. NaN where all or none are
  corrupted.

  Args:
    weights: of the fusion on a split of which a part is corrupted.
    touched: `bool[N]` by modality, where it is.

  Raises:
    ValueError: a modality has no weight.
  """
  if missing := sorted(set(touched) - set(weights)):
    raise ValueError(
      f'selective_weight_auroc: no weights for {missing}; there are those of '
      f'{sorted(weights)}.'
    )
  return {name: _area(~np.asarray(hit), weights[name]) for name, hit in touched.items()}


@dataclasses.dataclass(frozen=True)
class EvidenceSummary:
  """Vacuity or conflict on a split, `[S]` each.

  Attributes:
    mean: over all examples.
    right: over those that the model answers rightly; NaN without any.
    wrong: over the others.
    auroc: the chance that a wrong answer has more of it than a right one.
  """

  mean: np.ndarray
  right: np.ndarray
  wrong: np.ndarray
  auroc: np.ndarray


def evidence_summaries(
  predictions: Predictions, task: Task
) -> dict[str, EvidenceSummary]:
  """Of each quantity in `predictions.evidence`, by its name."""
  right = per_example(task.correct, predictions.logits, predictions.label) > 0.5
  return {
    name: EvidenceSummary(
      mean=values.mean(axis=1),
      right=_mean_where(right, values),
      wrong=_mean_where(~right, values),
      auroc=_area(~right, values),
    )
    for name, values in sorted(predictions.evidence.items())
  }


def _centered(values: np.ndarray) -> np.ndarray:
  values = np.asarray(values, np.float64)
  return values - values.mean(axis=1, keepdims=True)


def _mean_where(mask: np.ndarray, values: np.ndarray) -> np.ndarray:
  count = mask.sum(axis=1)
  return (values * mask).sum(axis=1) / np.where(count, count, np.nan)


def _area(truth: np.ndarray, values: np.ndarray) -> np.ndarray:
  """Area under the ROC curve of each seed; NaN where one class is absent."""
  pairs = zip(np.broadcast_to(truth, values.shape), values, strict=True)
  return np.array(
    [roc_auc(one, by) if 0 < one.sum() < len(one) else np.nan for one, by in pairs]
  )
