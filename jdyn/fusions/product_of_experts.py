"""The product of experts (I2M2; Madaan et al., 2024)."""

from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.fusions.votes import Masks, attendance, weighted
from jdyn.typing import Fused


class ProductOfExperts(nn.Module):
  """Multiplies the experts' probabilities, by adding up their logits.

  The normalised product of softmaxes is the softmax of the sum of the logits, and
  likewise for sigmoids. Over experts of one modality each it is the intra-modality
  model, and with a joint expert beside them I2M2.

  Attributes:
    evaluate: `product`, or `mixture`: the released code trains its intra-modality model
      as a product and tests the mean of the experts' probabilities.
  """

  evaluate: str = 'product'
  context: ClassVar[tuple[str, ...]] = ('present',)

  def __post_init__(self):
    """Raises ValueError for an unknown `evaluate`."""
    if self.evaluate not in ('product', 'mixture'):
      raise ValueError(
        f'evaluate={self.evaluate!r}; expected product or mixture (of classes).'
      )
    super().__post_init__()

  @property
  def tasks(self) -> tuple[str, ...]:
    """The kinds of logits that it can fuse."""
    of_classes = ('multiclass',)
    return of_classes if self.evaluate == 'mixture' else (*of_classes, 'multilabel')

  @nn.compact
  def __call__(
    self, inputs: Mapping[str, jax.Array], *, train: bool, present: Masks | None = None
  ) -> Fused:
    """Fuses logits `[B, C]`, of the experts that are present."""
    attending = attendance(inputs, present)
    if train or self.evaluate == 'product':
      return Fused(weighted(inputs, attending))
    # Sums of probabilities by their logs: a small one is not rounded to 0.
    names = sorted(inputs)
    chances = jnp.stack([nn.log_softmax(inputs[name]) for name in names])
    mask = jnp.stack([attending[name] for name in names])[..., None]
    votes = jnp.log(jnp.sum(mask, axis=0))
    return Fused(nn.logsumexp(chances, axis=0, where=mask > 0) - votes)
