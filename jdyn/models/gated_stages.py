"""A gate chooses, per example, how long a second stream is of use (DynMM, on ESANet).

Xue and Marculescu, "Dynamic Multimodal Fusion", CVPR-W 2023: of the four stages of the
depth encoder the first k run and are fused, and from there on the network is one of
RGB alone. The gate has seen both stems. Where we differ from the released code:

- there every stage always runs and the results are blended, as straight-through
  training needs; here `exit` runs what the chosen exit needs and nothing else;
- the gate, and with it whether there is Gumbel noise (in the paper, not in the code),
  is a module of its own;
- exits drawn at random (`policy='random'`) are drawn in training only. In evaluation
  row b of a batch takes exit b modulo their number, so that a score can be repeated
  and every exit has its share.
"""

import jax.numpy as jnp

from jdyn.models.exits import Exits, Maps
from jdyn.typing import Gated, Modalities, Outputs


class GatedStages(Exits):
  """Exits, and one gate in front of the first stage that chooses among them.

  Its `gate` maps both stems' maps, side by side, to weights `[B, K]` over the exits.
  """

  def route(self, inputs: Modalities, *, train: bool, hparams) -> tuple[Gated, Maps]:
    """Runs both stems and the gate.

    Args:
      inputs: images `[B, H, W, C]` by modality.
      train: noise is on, and BatchNorm uses the batch.
      hparams: `gate_temperature` and `gate_hard`, for a learned policy.
    """
    if not self._asks():
      return super().route(inputs, train=train, hparams=hparams)
    maps = self.stem(inputs, train=train)
    seen = jnp.concatenate(maps, axis=-1)
    return self.gate(seen, train=train, hparams=hparams), maps

  def follow(self, path: str, inputs: Modalities, *, train: bool, hparams) -> Outputs:
    """Runs the gate and then one exit, whatever the gate says: what it costs."""
    _, maps = self.route(inputs, train=train, hparams=hparams)
    return self.exit(self.paths.index(path), maps, train=train)

  def __call__(self, inputs: Modalities, *, train: bool, hparams) -> Outputs:
    """Logits `[B, H, W, C]`, and the gate's weights over the exits.

    All exits are computed. `aux` has the gate's logits and, where the network trains,
    its side outputs.
    """
    gated, maps = self.route(inputs, train=train, hparams=hparams)
    outputs = self.blend(gated.weights, maps, train=self._network_trains(train))
    return self._weighed(gated, outputs)
