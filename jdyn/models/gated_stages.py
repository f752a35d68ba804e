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

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.models.presence import Flag
from jdyn.ops.random import row_keys
from jdyn.typing import Gated, Modalities, Outputs

POLICIES = ('learned', 'random', 'last')
"""Who chooses the exit; see `GatedStages`."""

Maps = tuple[jax.Array, jax.Array]
"""Of the main stream and of the one beside it."""


class GatedStages(nn.Module):
  """A network of two streams, with an exit from the second behind each of its stages.

  Exit k is the network in which the second stream ends after k stages; k counts from
  0, where it ends after its stem. The last exit is the static network.

  Attributes:
    network: an `ESANet` of two modalities.
    gate: both streams' maps, side by side, to weights `[B, K]` over the exits.
    policy: `learned` asks the gate; `random` takes any exit, to prepare the network
      for all of them; `last` always takes the last one. A gate that is not asked has
      its parameters nevertheless, so that a model can go on under another policy.
    axis_name: name of the mapped data axis.
  """

  network: nn.Module
  gate: nn.Module
  policy: str = 'learned'
  axis_name: str | None = None

  @property
  def encoders(self) -> Mapping[str, nn.Module]:
    """The network's, by modality."""
    return self.network.encoders

  @property
  def paths(self) -> tuple[str, ...]:
    """Names of the exits, in the order of the gate's outputs."""
    return tuple(f'exit_{k}' for k in range(self.network.stages + 1))

  def available(self, inputs: Modalities) -> Flag:
    """Where both modalities are there."""
    return self.network.available(inputs)

  def route(self, inputs: Modalities, *, train: bool, hparams) -> tuple[Gated, Maps]:
    """Runs both stems and the gate.

    Args:
      inputs: images `[B, H, W, C]` by modality.
      train: noise is on, and BatchNorm uses the batch.
      hparams: `gate_temperature` and `gate_hard`, for a learned policy.
    """
    maps = self.network.stem(inputs, train=train)
    return self._choose(maps, train=train, hparams=hparams), maps

  def _choose(self, maps: Maps, *, train: bool, hparams) -> Gated:
    if self.policy not in POLICIES:
      raise ValueError(f'policy={self.policy!r}; expected one of {POLICIES}.')
    if self.policy == 'learned' or self.is_initializing():
      seen = jnp.concatenate(maps, axis=-1)
      return self.gate(seen, train=train, hparams=hparams)
    rows, exits = maps[0].shape[0], len(self.paths)
    if self.policy == 'last':
      chosen = jnp.full(rows, exits - 1)
    elif train:
      keys = row_keys(self.make_rng('gate'), rows, self.axis_name)
      chosen = jax.vmap(lambda key: jax.random.randint(key, (), 0, exits))(keys)
    else:
      chosen = jnp.arange(rows) % exits
    weights = jax.nn.one_hot(chosen, exits, dtype=maps[0].dtype)
    return Gated(weights=weights, logits=weights)

  def exit(self, number: int, maps: Maps, *, train: bool) -> Outputs:
    """The network from the stems' maps on, if the second stream ends after `number`."""
    (main, side), found = maps, []
    for stage in range(1, len(self.paths)):
      side = side if stage <= number else None
      main, side = self.advance(stage, main, side, train=train)
      found.append(main)
    return self.network.head(found, train=train)

  def advance(
    self, stage: int, main: jax.Array, side: jax.Array | None, *, train: bool
  ) -> tuple[jax.Array, jax.Array | None]:
    """One stage of those whose second stream goes on, or (None) has ended."""
    main, side = self.network.advance(stage, main, side, train=train)
    return (main if side is None else self.network.fuse(stage, main, side)), side

  def follow(self, path: str, inputs: Modalities, *, train: bool, hparams) -> Outputs:
    """Runs the gate and then one exit, whatever the gate says: what it costs."""
    _, maps = self.route(inputs, train=train, hparams=hparams)
    return self.exit(self.paths.index(path), maps, train=train)

  def blend(self, weights: jax.Array, maps: Maps, *, train: bool) -> Outputs:
    """The network from the stems' maps on, under weights `[B, K]` over the exits.

    Behind stage s the main stream is a mean of the maps without and with the other
    stream; the share of the former is that of the exits before s.
    """
    main, side = maps
    found = []
    for stage in range(1, len(self.paths)):
      main, side = self.network.advance(stage, main, side, train=train)
      fused = self.network.fuse(stage, main, side)
      # Equal where rows sum to one; the original's, where a caller's do not.
      last = stage == len(self.paths) - 1
      left = 1 - weights[:, -1] if last else weights[:, :stage].sum(axis=1)
      left = left.astype(main.dtype)[:, None, None, None]
      main = left * main + (1 - left) * fused
      found.append(main)
    return self.network.head(found, train=train)

  def __call__(self, inputs: Modalities, *, train: bool, hparams) -> Outputs:
    """Logits `[B, H, W, C]`, and the gate's weights over the exits.

    All exits are computed. `aux` has the gate's logits and, in training, the
    network's side outputs.
    """
    gated, maps = self.route(inputs, train=train, hparams=hparams)
    outputs = self.blend(gated.weights, maps, train=train)
    return Outputs(
      logits=outputs.logits,
      weights={path: gated.weights[:, k] for k, path in enumerate(self.paths)},
      aux={**outputs.aux, 'gate_logits': gated.logits},
    )
