"""The maps whose fixed points DEQ fusion computes (Ni et al., "Deep equilibrium
multimodal fusion", 2023).

A modality has a state that sees its own features alone, and the fused state sees the
states of all modalities. Features are injected in every application. Arrays are
`[B, ..., D]`: a vector or, for a sequence, one vector per step.
"""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.layers.batch_norm import BatchNorm
from jdyn.layers.dense import Dense

EPSILON = 1e-5
"""Of the original's norms."""


class StateNorm(nn.Module):
  """Group normalisation of a state.

  Attributes:
    groups: of features that are normalised together.
    scale: initial scale. Below 1, it makes the map that it ends a contraction.
    epsilon: added to the variance. Where all but a few features of a group are zero,
      the variance is small and the norm stretches; the original's 1e-5 then lets single
      examples diverge.
    over_steps: take the moments over all steps of a sequence, as the CMU-MOSI code
      does, instead of step by step; lengths then matter to all steps.
  """

  groups: int = 4
  scale: float = 1.0
  epsilon: float = EPSILON
  over_steps: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalises `[B, ..., D]`.

    Raises:
      ValueError: if D does not divide into the groups.
    """
    if x.shape[-1] % self.groups:
      raise ValueError(
        f'The state has {x.shape[-1]} features, which do not divide into '
        f'groups={self.groups}; change one of them.'
      )
    return nn.GroupNorm(
      self.groups,
      epsilon=self.epsilon,
      # Flax's fast variance, E[x^2] - E[x]^2, cancels.
      use_fast_variance=False,
      reduction_axes=None if self.over_steps else (-1,),
      scale_init=nn.initializers.constant(self.scale),
      name='norm',
    )(x)


class ResidualCell(nn.Module):
  """One application to a modality's state: two linear layers and a residual.

  Attributes:
    groups: of the norms.
    scale: initial scale of the last one.
    epsilon: of the norms.
  """

  groups: int = 4
  scale: float = 1.0
  epsilon: float = EPSILON

  @nn.compact
  def __call__(self, z: jax.Array, x: jax.Array) -> jax.Array:
    """The next state of `z` `[B, ..., D]` under the features `x`, of the same shape."""
    width = z.shape[-1]
    y = Dense(width, name='linear1')(z)
    y = nn.relu(StateNorm(self.groups, epsilon=self.epsilon, name='norm1')(y))
    y = Dense(width, name='linear2')(y) + x
    y = nn.relu(StateNorm(self.groups, epsilon=self.epsilon, name='norm2')(y) + z)
    return StateNorm(self.groups, self.scale, self.epsilon, name='norm3')(y)


class BatchNormCell(nn.Module):
  """The cell of the CMU-MOSI experiment, with batch normalisation inside.

  With batch statistics the examples of a batch would share one fixed point problem,
  and the running statistics would move in every iteration, as they do in the released
  code. A solver must call this cell with `train=False`.
  """

  @nn.compact
  def __call__(self, z: jax.Array, x: jax.Array, *, train: bool = False) -> jax.Array:
    """The next state of `z` `[B, ..., D]` under the features `x`, of the same shape."""
    width = z.shape[-1]
    y = Dense(width, name='linear1')(z) + x
    y = BatchNorm(epsilon=EPSILON, name='norm')(y, train=train)
    return nn.relu(Dense(width, name='linear2')(y))


class FeatureCell(nn.Module):
  """The features themselves: the ablation without states of the modalities."""

  def __call__(self, z: jax.Array, x: jax.Array) -> jax.Array:
    """`x`, whatever the state `z` is."""
    del z
    return x


class PurifyCombine(nn.Module):
  """One application to the fused state: purify by a gate, then combine.

  `a_m = W_g (z_m + z) + b_g`, `p_m = z * a_m`, and the next state is the norm of
  `relu(W_f (combination of p_m) + b_f + x)`. All modalities share the two matrices.
  The gate is linear, so the map is quadratic in `z`.

  Attributes:
    combine: `mean` over the modalities, or the original's `sum`, under which the map
      stretches with their number.
    groups: of the norm.
    scale: its initial scale.
    epsilon: of the norm.
    relu_last: normalise first, as the MM-IMDB code does.
    over_steps: see `StateNorm`.
  """

  combine: Literal['mean', 'sum'] = 'mean'
  groups: int = 4
  scale: float = 1.0
  epsilon: float = EPSILON
  relu_last: bool = False
  over_steps: bool = False

  @nn.compact
  def __call__(
    self, z: jax.Array, x: jax.Array, states: Mapping[str, jax.Array]
  ) -> jax.Array:
    """The next fused state.

    Args:
      z: fused state `[B, ..., D]`.
      x: fused features, of that shape.
      states: of the modalities, each of that shape.
    """
    width = z.shape[-1]
    # The gate is linear and shared, so it is applied once, to the mean of its inputs.
    mean = sum(states[name] for name in sorted(states)) / len(states)
    purified = z * Dense(width, name='gate')(mean + z)
    if self.combine == 'sum':
      purified *= len(states)
    y = Dense(width, name='fuse')(purified) + x
    norm = StateNorm(
      self.groups, self.scale, self.epsilon, self.over_steps, name='norm'
    )
    return nn.relu(norm(y)) if self.relu_last else norm(nn.relu(y))


class WeightedSum(nn.Module):
  """`sum_m w_m x_m + b` with scalar weights, 1 at first, and a scalar bias."""

  @nn.compact
  def __call__(self, features: Mapping[str, jax.Array]) -> jax.Array:
    """Adds up arrays of one shape."""
    (bias,) = self.param('bias', nn.initializers.zeros, (1,))
    total = bias
    for name in sorted(features):
      (weight,) = self.param(f'weight_{name}', nn.initializers.ones, (1,))
      total += weight * features[name]
    return total


class JointCell(nn.Module):
  """One application to the states of all modalities and the fused one, as released.

  The fused state sees the new states of the modalities.

  Attributes:
    cell: map of a modality's state: `residual`, `batch_norm` or `features`.
    groups: of the norms.
    relu_last: see `PurifyCombine`.
    over_steps: see `StateNorm`; of the fused state.
  """

  cell: str = 'residual'
  groups: int = 4
  relu_last: bool = False
  over_steps: bool = False

  @nn.compact
  def __call__(
    self, z: jax.Array, features: Mapping[str, jax.Array], fused: jax.Array
  ) -> jax.Array:
    """The next states.

    Args:
      z: `[B, (M + 1) N]`, states of the modalities in sorted order and the fused
        state, each flattened to N numbers.
      features: of the M modalities, `[B, ..., D]`.
      fused: their combination, of that shape.

    Raises:
      ValueError: there is no such cell, or D does not divide into the groups.
    """
    names = sorted(features)
    *old, last = (
      part.reshape(fused.shape) for part in jnp.split(z, len(names) + 1, axis=1)
    )
    states = {
      name: self._cell(f'cell_{name}')(state, features[name])
      for name, state in zip(names, old, strict=True)
    }
    combine = PurifyCombine(
      'sum',
      self.groups,
      relu_last=self.relu_last,
      over_steps=self.over_steps,
      name='combine',
    )
    new = [*states.values(), combine(last, fused, states)]
    return jnp.concatenate([state.reshape(z.shape[0], -1) for state in new], axis=1)

  def _cell(self, name: str) -> nn.Module:
    match self.cell:
      case 'residual':
        return ResidualCell(self.groups, name=name)
      case 'batch_norm':
        return BatchNormCell(name=name)
      case 'features':
        return FeatureCell(name=name)
    raise ValueError(
      f"cell={self.cell!r}; expected 'residual', 'batch_norm' or 'features'."
    )
