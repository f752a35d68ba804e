"""MM-Dynamics (Han et al., CVPR 2022): which features and which modality to trust."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.fusions.concat import Concat
from jdyn.layers.dropout import Dropout
from jdyn.layers.join import flatten
from jdyn.typing import Fused

_xavier = nn.initializers.glorot_normal()


class MMDynamics(nn.Module):
  """Gates the features of every view, and scales the view by its own confidence.

  Per view `x`, with four linear maps of its own:

      g = sigmoid(gate(x))                  how informative each feature is
      h = dropout(relu(encoder(x * g)))
      logits = classifier(h),  c = confidence(h)
      f = h * c

  and the `f` of all views are fused. The losses `informativeness`, `confidence` and
  `per_expert` make the gates sparse, `c` the probability that the view gives to the
  true class, and the classifiers good ones. As in the released code, nothing keeps
  `c` in [0, 1].

  On raw views, with `concat` inside and a linear head behind, this is the published
  model; with `equilibrium` inside it is the omics model of DEQ fusion.

  Attributes:
    num_outputs: width of each view's logits; `jdyn.build` sets it.
    features: width of `h`.
    dropout: rate.
    fusion: of the scaled features, which have one width.
    axis_name: name of the mapped data axis, for dropout.
  """

  num_outputs: int
  features: int = 1000
  dropout: float = 0.5
  fusion: nn.Module = Concat()
  axis_name: str | None = None

  @nn.compact
  def __call__(self, inputs: Mapping[str, jax.Array], *, train: bool) -> Fused:
    """Fuses arrays `[B, ...]`, flattened to vectors.

    Returns:
      The fused value; `weights[view]`: c `[B]`; `unimodal[view]`: logits
      `[B, num_outputs]`; `aux['confidence/<view>']`: c again, for the loss, and
      `aux['informativeness/<view>']`: the mean of g over the features `[B]`, beside
      what the inner fusion says.
    """
    scaled, weights, unimodal, aux = {}, {}, {}, {}
    for name in sorted(inputs):
      x = flatten(inputs[name])
      gate = nn.sigmoid(self._linear(x.shape[-1], f'gate_{name}')(x))
      hidden = nn.relu(self._linear(self.features, f'encoder_{name}')(x * gate))
      hidden = Dropout(self.dropout, self.axis_name)(hidden, train=train)
      unimodal[name] = self._linear(self.num_outputs, f'classifier_{name}')(hidden)
      confidence = self._linear(1, f'confidence_{name}')(hidden)
      scaled[name] = hidden * confidence
      weights[name] = confidence[:, 0]
      aux[f'informativeness/{name}'] = jnp.mean(gate, axis=-1)
      aux[f'confidence/{name}'] = weights[name]
    fused = self.fusion(scaled, train=train)
    return Fused(fused.value, weights, aux=aux | dict(fused.aux), unimodal=unimodal)

  def _linear(self, features: int, name: str) -> nn.Dense:
    return nn.Dense(features, kernel_init=_xavier, name=name)
