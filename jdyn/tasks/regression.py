"""One real number per example."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jdyn.metrics import moments, sentiment
from jdyn.tasks.task import Task, host_mean
from jdyn.typing import Batch, Mean, Outputs, weighted_mean


@dataclasses.dataclass(frozen=True)
class Regression(Task):
  """Labels `f32[B]`, predictions `logits[..., 0]`; absolute error.

  The scores beyond loss, error and correlation are those of sentiment in
  [-3, 3] (see `jdyn.metrics.sentiment`). DynMM prints as `Loss` the summed
  error times the batch size; here it is the mean absolute error.

  Attributes:
    num_outputs: must be 1.
  """

  num_outputs: int = 1
  main_score: ClassVar[str] = 'mae'
  score_names: ClassVar[tuple[str, ...]] = (
    'loss',
    'mae',
    'pearson',
    'acc2_has0',
    'acc2_non0',
    'f1_has0',
    'f1_non0',
    'acc5',
    'acc7',
    'phi_has0',
  )

  def __post_init__(self):
    """Checks `num_outputs`; raises ValueError."""
    if self.num_outputs != 1:
      raise ValueError(f'Regression: num_outputs={self.num_outputs}; must be 1.')

  def loss(self, logits: jax.Array, batch: Batch) -> jax.Array:
    """The absolute error `f32[B]`, in units of the label."""
    return jnp.abs(self.predict(logits) - batch['label'])

  def predict(self, logits: jax.Array) -> jax.Array:
    """The value `f32[B]`."""
    return logits[..., 0].astype(jnp.float32)

  def correct(self, logits: jax.Array, batch: Batch) -> jax.Array:
    """1 where prediction and label agree on being at least 0, else 0."""
    agree = (self.predict(logits) >= 0) == (batch['label'] >= 0)
    return agree.astype(jnp.float32)

  def confidence(self, logits: jax.Array) -> jax.Array:
    """A real number has none."""
    raise ValueError(
      'A regression has no confidence; let the gate read hidden/... or logits/... of '
      'an expert instead.'
    )

  def true_probability(self, logits: jax.Array, batch: Batch) -> jax.Array:
    """A real number has none."""
    raise ValueError(
      'A regression gives no probability to the truth, so there is no confidence to '
      'learn; set loss.confidence=0.'
    )

  def sums(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array | Mean]:
    """`loss`, second `moments`, and confusion counts of the `sentiment` levels."""
    weights = self.weights(batch)
    prediction, label = self.predict(outputs.logits), batch['label']
    return {
      'loss': weighted_mean(self.loss(outputs.logits, batch), weights),
      'moments': moments.moments(prediction, label, weights),
      'sentiment': sentiment.sentiment_sums(label, prediction, weights),
    }

  def scores(self, sums: Mapping[str, np.ndarray | Mean]) -> dict[str, float]:
    """Loss (which is `mae`), Pearson's correlation and the sentiment scores."""
    loss = host_mean(sums['loss'])
    return {
      'loss': loss,
      'mae': loss,
      'pearson': moments.pearson(sums['moments']),
      **sentiment.sentiment_scores(sums['sentiment']),
    }
