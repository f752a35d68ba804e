"""Multiplicative interactions (Jayakumar et al., ICLR 2020).

One modality generates the weights of a linear map that is applied to another:
a full matrix, one factor per feature (as in FiLM), or one factor in all.
MultiBench starts the biases and the constant parts of the factors at N(0, 1);
here biases start at 0 and factors at 1, the identity.
"""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.layers.bilinear import Bilinear
from jdyn.layers.dense import Dense
from jdyn.typing import Fused


class MultiplicativeFusion(nn.Module):
  """A linear map of one modality whose weights depend on another.

  - `matrix`: two modalities to `features` through a bilinear form, or three
    through a trilinear one: `z A(x, y) + B(x, y)` with bilinear `A` and `B`.
  - `vector`: `y * (x W + w) + x U + u`, as wide as `y`.
  - `scalar`: the same with one factor and one shift for all features.

  Here `x`, `y`, `z` are the inputs, `x` the one named by `context` and the
  others in the sorted order of their names.

  Attributes:
    kind: form of the generated weights.
    features: width of the output of `matrix`; 0 for the other kinds.
    context: name of the modality that generates the weights; empty for the
      first in sorted order.
    clip: bounds that all inputs are clipped to, if given.
  """

  kind: Literal['matrix', 'vector', 'scalar'] = 'matrix'
  features: int = 0
  context: str = ''
  clip: tuple[float, float] | None = None

  @nn.compact
  def __call__(self, inputs: Mapping[str, jax.Array], *, train: bool) -> Fused:
    """Maps arrays `[B, ...]`, flattened to vectors, to `[B, D]`.

    Raises:
      ValueError: for an unknown context or kind, for three inputs unless kind
        is `matrix`, and for any other number than two or three.
    """
    del train
    parts = [x.reshape(x.shape[0], -1) for x in self._in_order(inputs)]
    if self.clip is not None:
      parts = [jnp.clip(part, *self.clip) for part in parts]

    if self.kind == 'matrix' and self.features > 0 and len(parts) in (2, 3):
      return Fused(self._matrix(*parts))
    if self.kind in ('vector', 'scalar') and not self.features and len(parts) == 2:
      x, y = parts
      width = y.shape[-1] if self.kind == 'vector' else 1
      factor = Dense(width, bias_init=nn.initializers.ones, name='factor')(x)
      return Fused(factor * y + Dense(width, name='shift')(x))
    raise ValueError(
      f'kind={self.kind!r} with features={self.features} cannot fuse {sorted(inputs)}: '
      "'matrix' takes two or three inputs and features > 0; 'vector' and 'scalar' "
      'take two and features=0.'
    )

  def _in_order(self, inputs: Mapping[str, jax.Array]) -> list[jax.Array]:
    if self.context and self.context not in inputs:
      raise ValueError(f'context={self.context!r} is not one of {sorted(inputs)}.')
    names = sorted(inputs, key=lambda name: (name != self.context, name))
    return [inputs[name] for name in names]

  def _matrix(
    self, x: jax.Array, y: jax.Array, z: jax.Array | None = None
  ) -> jax.Array:
    value = Bilinear(self.features, name='bilinear')(x, y)
    if z is None:
      return value
    maps = Bilinear(z.shape[-1] * self.features, name='trilinear')(x, y)
    maps = maps.reshape(z.shape[0], z.shape[-1], self.features)
    return jnp.einsum('bp,bpd->bd', z, maps) + value
