"""Experts vote with their energy as weight (QMF; Zhang et al., ICML 2023)."""

from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.fusions.votes import Masks, attendance, normalized, weighted
from jdyn.ops.energy import log_partition
from jdyn.typing import Fused


class EnergyWeighted(nn.Module):
  """Sums logits, each times the confidence of its expert in the example.

      c = scale * T log sum_k exp(f_k / T),    z = sum_m stop_gradient(c_m) f_m

  The paper's Eq. 9 with `alpha = -scale` and `beta = 0`. As published, weights have no
  sum and are negative where the log-partition is. Nothing in a cross-entropy fixes the
  constant that may be added to all logits of an expert, on which `c` depends: loss
  `rank` does, and `centered` takes it away.

  Attributes:
    temperature: T.
    scale: of the confidence.
    normalize: `none` as published, `softmax`, or `sum` over the experts, which is for
      confidences that are positive.
    centered: subtract the mean of an expert's logits before taking its energy.
    detach: keep the fused prediction from training the weights, as the released
      text-image code does; its RGB-D code does not.
  """

  temperature: float = 1.0
  scale: float = 0.1
  normalize: str = 'none'
  centered: bool = False
  detach: bool = True
  context: ClassVar[tuple[str, ...]] = ('present',)
  tasks: ClassVar[tuple[str, ...]] = ('multiclass',)

  @nn.compact
  def __call__(
    self, inputs: Mapping[str, jax.Array], *, train: bool, present: Masks | None = None
  ) -> Fused:
    """Fuses logits `[B, C]`; `weights` has every expert's confidence `[B]`."""
    del train
    scores = {name: self._confidence(inputs[name]) for name in sorted(inputs)}
    weights = normalized(scores, self.normalize, attendance(inputs, present))
    used = jax.lax.stop_gradient(weights) if self.detach else weights
    return Fused(weighted(inputs, used), weights=weights)

  def _confidence(self, logits: jax.Array) -> jax.Array:
    if self.centered:
      logits -= jnp.mean(logits, axis=-1, keepdims=True)
    return self.scale * log_partition(logits, self.temperature)
