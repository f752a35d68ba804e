"""A gate in front of each stage decides whether a second stream goes on into it.

The local gates of DynMM (Xue and Marculescu, CVPR-W 2023), which its released code has
but cannot train. It draws from a softmax of two probabilities where logits belong,
with noise also in evaluation; those probabilities cannot favour the second stream, as
they come from a mean of rectified maps; the temperature never reaches the gates; and
the streams are added whatever fusion is configured. Here each gate is that of
`GatedStages` with two outputs, the odds of the exits are products of theirs, and the
network fuses as it does elsewhere.
"""

from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.models.exits import Exits, Maps
from jdyn.typing import Gated, Modalities, Outputs


class LocallyGatedStages(Exits):
  """Exits, and a gate in front of each stage: to leave there, or to go on.

  Once ended, the second stream stays ended. Gates are asked one after another, each for
  what it holds likelier: a hard choice need not be the likeliest of all exits.

  Attributes:
    gate: one per stage; both streams' maps behind the stage before, side by side, to
      weights `[B, 2]`, to end and to go on.
  """

  gate: Sequence[nn.Module]
  takes_budgets: ClassVar[bool] = False  # They decide before they know the others.

  def setup(self):
    """Checks the gates.

    Raises:
      ValueError: there is not one for each stage.
    """
    if len(self.gate) != self.network.stages:
      raise ValueError(
        f'gate has {len(self.gate)} gates; give one for each of the '
        f"network's {self.network.stages} stages."
      )

  def decide(self, stage: int, maps: Maps, *, train: bool, hparams) -> Gated:
    """The gate in front of stage 1, 2, ...; see `GatedStages.route`."""
    seen = jnp.concatenate(maps, axis=-1)
    return self.gate[stage - 1](seen, train=train, hparams=hparams)

  def follow(self, path: str, inputs: Modalities, *, train: bool, hparams) -> Outputs:
    """Runs one exit, and on its way the gates that must be asked: what it costs."""
    number = self.paths.index(path)

    def step(stage, maps):
      if stage <= number + 1:
        self.decide(stage, maps, train=train, hparams=hparams)
      return self._pass(stage, maps, stage <= number, train=train)

    return self._walk(self.stem(inputs, train=train), step, train=train)

  def __call__(self, inputs: Modalities, *, train: bool, hparams) -> Outputs:
    """Logits `[B, H, W, C]`, and weights over the exits, which sum to one.

    All exits are computed. In `aux` `gate_logits` `[B, K]` are the logarithms of the
    exits' probabilities, without noise and at temperature 1; there too are the side
    outputs, where the network trains.
    """
    network_trains = self._network_trains(train)
    if not self._asks():
      gated, maps = self.route(inputs, train=train, hparams=hparams)
      return self._weighed(gated, self.blend(gated.weights, maps, train=network_trains))
    maps = self.stem(inputs, train=train)
    decided: list[Gated] = []

    def ended(stage, maps):
      decided.append(self.decide(stage, maps, train=train, hparams=hparams))
      return 1 - over_exits(decided).weights[:, -1]

    outputs = self._blend(ended, maps, train=network_trains)
    return self._weighed(over_exits(decided), outputs)


def over_exits(decided: Sequence[Gated]) -> Gated:
  """K - 1 gates in a chain as one over K exits, its logits log-probabilities."""
  weights, logs, reached, log_reached = [], [], 1.0, 0.0
  for gated in decided:
    log = jax.nn.log_softmax(gated.logits)
    weights.append(reached * gated.weights[:, 0])
    logs.append(log_reached + log[:, 0])
    reached, log_reached = reached * gated.weights[:, 1], log_reached + log[:, 1]
  return Gated(
    weights=jnp.stack([*weights, reached], axis=-1),
    logits=jnp.stack([*logs, log_reached], axis=-1),
  )
