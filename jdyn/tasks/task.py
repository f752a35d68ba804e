"""What every task offers: loss, weights, mergeable sums, scores, decisions."""

from collections.abc import Mapping
from typing import ClassVar, Protocol

import jax
import numpy as np

from jdyn.typing import Batch, Mean, Outputs

_LOWER_IS_BETTER = frozenset({'loss', 'mae'})


class Task(Protocol):
  """A kind of label: how predictions are judged, whatever the method.

  Tasks subclass it for the methods that are the same nearly everywhere. All
  functions of arrays are pure and may be traced; `scores` runs on the host.
  """

  score_names: ClassVar[tuple[str, ...]]
  """The keys of `scores`."""

  main_score: ClassVar[str]
  """The one to select and to report by, if nothing else is asked for."""

  num_outputs: int

  record_names: ClassVar[tuple[str, ...]] = ('label', 'prediction')
  """What `records` says of every example."""

  keeps_logits: ClassVar[bool] = True
  """Whether predictions keep the logits themselves; see `kept`."""

  def loss(self, logits: jax.Array, batch: Batch) -> jax.Array:
    """The loss `f32[B, ...]` of each example, or of its parts, without weights."""

  def predict(self, logits: jax.Array) -> jax.Array:
    """The decision for each example."""

  def correct(self, logits: jax.Array, batch: Batch) -> jax.Array:
    """How right the decision on each example is: `f32[B]` in [0, 1]."""

  def confidence(self, logits: jax.Array) -> jax.Array:
    """How sure the decision on each example is: `f32[B]` in [0, 1].

    Raises:
      ValueError: decisions of this task have no probability.
    """

  def true_probability(self, logits: jax.Array, batch: Batch) -> jax.Array:
    """The probability that is given to the truth: `f32[B]` in [0, 1].

    Raises:
      ValueError: labels of this task have no probability.
    """

  def sums(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array | Mean]:
    """Sums over the batch; those of two batches merge by adding their leaves."""

  def scores(self, sums: Mapping[str, np.ndarray | Mean]) -> dict[str, float]:
    """The scores by name, from the merged sums of a whole split."""

  def scores_of_all(self, logits: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Further scores, which need every example of a split at once; on the host."""
    del logits, label
    return {}

  @property
  def kept_shape(self) -> tuple[int, ...]:
    """Shape of what `kept` keeps of one example."""
    return (self.num_outputs,)

  def kept(self, logits: jax.Array, batch: Batch) -> jax.Array:
    """What predictions keep of the logits `[B, ...]`: enough for all scores."""
    del batch
    return logits

  def kept_label(self, label: np.ndarray) -> np.ndarray:
    """What predictions keep of the labels `[N, ...]`."""
    return label

  def kept_scores(self, kept: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """All scores of `N` examples, from what was kept; on the host."""
    batch = {'label': label, 'mask': np.ones(len(label), np.float32)}
    return self.scores(self.sums(Outputs(logits=kept), batch)) | self.scores_of_all(
      kept, label
    )

  def kept_correct(self, kept: np.ndarray, label: np.ndarray) -> np.ndarray:
    """`correct` of `N` examples, from what was kept of them: `[N]`."""
    return np.asarray(self.correct(kept, {'label': label}))

  def records(self, kept: np.ndarray, label: np.ndarray) -> list[np.ndarray]:
    """A column `[N, ...]` for each of `record_names`."""
    return [label, np.asarray(self.predict(kept))]

  def weights(self, batch: Batch) -> jax.Array:
    """The weight `f32[B, ...]` of what `loss` returns; 0 for padding."""
    return batch['mask']

  def higher_is_better(self, name: str) -> bool:
    """Whether to select by the greatest (or the least) value of a score.

    Raises:
      ValueError: this task has no score of that name.
    """
    if name not in self.score_names:
      raise ValueError(
        f'Unknown score {name!r} of {type(self).__name__}; expected one of '
        f'{sorted(self.score_names)}.'
      )
    return name not in _LOWER_IS_BETTER


def host_mean(mean: Mean) -> float:
  """The value of a merged `Mean`, in float64; 0 where nothing was counted."""
  return float(mean.total) / (float(mean.count) or 1.0)
