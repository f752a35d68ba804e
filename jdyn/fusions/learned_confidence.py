"""Experts vote with the confidence that they were taught (PDF; Cao et al., 2024)."""

from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.fusions.votes import Masks, attendance, normalized, weighted
from jdyn.layers.join import flatten
from jdyn.typing import Fused


class LearnedConfidence(nn.Module):
  """Weights logits by the collaborative belief of Predictive Dynamic Fusion.

  From what is behind the logits of expert m, a small network predicts `p_m`, the
  probability that m gives to the true class (loss `confidence`). With `l = -log p`,

      belief_m = p_m + sum_{j != m} l_j / sum_j l_j,    w = softmax(belief)

  over the experts: its own confidence, and how much less sure the others are. Neither
  is trained through `w`. At evaluation the released code scales the belief of all but
  the surest expert down, by how far their probabilities are from uniform.

  Attributes:
    hidden: widths of the hidden layers of the small network, ReLU between. The
      released one has two without any activation, which is one linear map: `()`.
    relative: scale beliefs at evaluation, as released. A trained model then weighs
      differently from what it was trained with.
  """

  hidden: tuple[int, ...] = ()
  relative: bool = False
  context: ClassVar[tuple[str, ...]] = ('present', 'hidden')
  weights_learn: ClassVar[bool] = False  # From what is made of them.
  tasks: ClassVar[tuple[str, ...]] = ('multiclass',)

  @nn.compact
  def __call__(
    self,
    inputs: Mapping[str, jax.Array],
    *,
    train: bool,
    present: Masks | None = None,
    hidden: Mapping[str, jax.Array],
  ) -> Fused:
    """Fuses logits `[B, C]`.

    Returns:
      The weighted sum; `weights`, with sum 1; in `aux`, `confidence/<expert>`, the
      predicted probabilities `[B]`.

    Raises:
      ValueError: an expert has no hidden state.
    """
    names = sorted(inputs)
    if lacking := [name for name in names if hidden.get(name) is None]:
      raise ValueError(
        f'fusion learned_confidence reads the hidden state of every expert, and '
        f'{lacking[0]!r} has none; use one with a head of its own.'
      )
    attending = attendance(inputs, present)
    logits = {name: self._network(name, hidden[name]) for name in names}
    chance = {name: nn.sigmoid(logits[name]) for name in names}
    doubt = {name: -nn.log_sigmoid(logits[name]) * attending[name] for name in names}
    total = sum(doubt.values())
    belief = {name: chance[name] + (total - doubt[name]) / total for name in names}
    if self.relative and not train:
      belief = _relative(belief, inputs, attending)
    weights = normalized(jax.lax.stop_gradient(belief), 'softmax', attending)
    return Fused(
      weighted(inputs, weights),
      weights=weights,
      aux={f'confidence/{name}': chance[name] for name in names},
    )

  def _network(self, name: str, x: jax.Array) -> jax.Array:
    """Log-odds `[B]` that the expert is right."""
    x = jax.lax.stop_gradient(flatten(x))
    for k, width in enumerate(self.hidden):
      x = nn.relu(nn.Dense(width, name=f'{name}_{k}')(x))
    return nn.Dense(1, name=f'{name}_{len(self.hidden)}')(x)[:, 0]


def _relative(belief, votes, attending):
  """Beliefs times the distance of the votes from uniform, relative to the greatest."""
  distance = {}
  for name, logits in votes.items():
    off = jnp.abs(nn.softmax(logits) - 1 / logits.shape[-1])
    distance[name] = jnp.mean(off, axis=-1) * attending[name]
  most = jnp.max(jnp.stack(list(distance.values())), axis=0)
  # Where all votes are uniform, none is less sure than another.
  return {
    name: belief[name] * jnp.where(most > 0, distance[name] / most, 1.0)
    for name in belief
  }
