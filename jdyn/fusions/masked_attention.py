"""Masked multimodal attention (CM-BERT; Yang et al., ACM MM 2020).

DEQ fusion's CMU-MOSI model is this one, on BERT's last layer and aligned audio, with an
equilibrium in place of a weighted sum of the similarities.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.fusions.equilibrium import Equilibrium
from jdyn.layers.dense import Dense
from jdyn.layers.dropout import Dropout
from jdyn.layers.sequence import as_sequence, step_mask, zero_padding
from jdyn.typing import Fused, Modalities


class MaskedAttention(nn.Module):
  """Lets the first step of a text attend where all modalities see similar steps.

  Each modality's steps are projected, `y`, and compared, `relu(y y^T)`. The fused
  similarities to the first step (BERT's `[CLS]`), through a softmax, average the
  text's steps; the average is added to the first, and normalised after a linear layer.

  Attributes:
    query: name of the text.
    features: width of the projections.
    fusion: of the similarities `[B, T, T]`.
    attention_dropout: rate on the attention.
    dropout: rate before the last norm.
    released: as in the released code, scale the projected text by the norm of the
      whole batch, not of each example, so that a prediction depends on its neighbours;
      and let padding take part in the similarities.
    axis_name: name of the mapped data axis.
  """

  query: str = 'text'
  features: int = 30
  fusion: nn.Module = Equilibrium()
  attention_dropout: float = 0.3
  dropout: float = 0.1
  released: bool = False
  axis_name: str | None = None

  @nn.compact
  def __call__(self, inputs: Modalities, *, train: bool) -> Fused:
    """Maps aligned sequences to a vector of the text's width, `[B, F]`.

    Raises:
      ValueError: there is no text, or the sequences differ in their number of steps.
    """
    sequences = {name: as_sequence(inputs[name]) for name in sorted(inputs)}
    self._check({name: steps.shape[1] for name, (steps, _) in sequences.items()})
    similar = {}
    for name, (steps, length) in sequences.items():
      y = Dense(self.features, use_bias=False, name=f'project_{name}')(steps)
      if not self.released:
        y = zero_padding(y, length)
      if name == self.query:
        y = self._scale(y, train=train)
      similar[name] = nn.relu(jnp.einsum('btd,bsd->bts', y, y))
    fused = self.fusion(similar, train=train)

    steps, length = sequences[self.query]
    scores = fused.value[:, :, 0]  # Rows are the features, columns the steps.
    scores = jnp.where(step_mask(length, steps.shape[1]), scores, -jnp.inf)
    attention = Dropout(self.attention_dropout, self.axis_name)(
      nn.softmax(scores), train=train
    )
    y = jnp.einsum('bt,btf->bf', attention, steps) + steps[:, 0]
    y = Dense(steps.shape[-1], name='out')(y)
    y = Dropout(self.dropout, self.axis_name)(y, train=train)
    norm = nn.LayerNorm(epsilon=1e-12, use_fast_variance=False, name='norm')
    return dataclasses.replace(fused, value=norm(y))

  def _scale(self, y: jax.Array, *, train: bool) -> jax.Array:
    """The projected text, divided by the root of its norm, a constant."""
    squares = jnp.sum(jnp.square(y), axis=(1, 2), keepdims=True)
    if self.released:
      squares = jnp.sum(squares, axis=0, keepdims=True)
      if self.axis_name is not None and train:
        squares = jax.lax.psum(squares, self.axis_name)
    return y * jax.lax.stop_gradient(jnp.maximum(squares, 1e-12) ** -0.25)

  def _check(self, steps: dict[str, int]) -> None:
    if self.query not in steps:
      raise ValueError(f'query={self.query!r} is not one of {sorted(steps)}.')
    if len(set(steps.values())) > 1:
      raise ValueError(
        f'masked_attention needs sequences with equally many steps, got {steps}; align '
        'them, as the data of CMU-MOSI and CMU-MOSEI are by words.'
      )
