"""A network of two streams, with an exit from the second behind each of its stages.

What models have in common that choose the exit per example: `GatedStages`, where one
gate does, and `LocallyGatedStages`, with a gate in front of each stage. Exits that
nobody chose, or all of them, are taken here without asking.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Self

import jax
import jax.numpy as jnp
from flax import linen as nn

from jdyn.models.presence import Flag
from jdyn.ops.random import row_keys
from jdyn.typing import Gated, Modalities, Outputs

POLICIES = ('learned', 'random', 'last')
"""Who chooses the exit, beside the names of the exits; see `Exits`."""

_GIVEN = 'given'  # Not to be configured: training knows no such hyperparameter.

FREEZE = ('none', 'eval', 'compat')
"""What of the network stands still while the gate is trained; see `Exits`."""

Maps = tuple[jax.Array, jax.Array | None]
"""Of the main stream and of the one beside it."""


class Exits(nn.Module):
  """The walk through the stages, and who chooses the exit.

  Exit k is the network in which the second stream ends after k stages; k counts from
  0, where it ends after its stem. The last exit is the static network.

  Attributes:
    network: an `ESANet` of two modalities.
    gate: a subclass says what it reads and decides.
    policy: `learned` asks the gate; `random` takes any exit, to prepare the network
      for all of them; `last` always takes the last one, and the name of an exit that
      one. A gate that is not asked has its parameters nevertheless, so that a model can
      go on under another policy.
    freeze: `eval`: the network runs in evaluation mode, for a stage that trains the
      gate alone; `compat`, as released: it does not, so that the statistics of its
      BatchNorm layers go on. Whoever trains keeps its parameters as they are.
    axis_name: name of the mapped data axis.
  """

  network: nn.Module
  gate: nn.Module | Sequence[nn.Module]
  policy: str = 'learned'
  freeze: Literal['none', 'eval', 'compat'] = 'none'
  axis_name: str | None = None

  @property
  def encoders(self) -> Mapping[str, nn.Module]:
    """The network's, by modality."""
    return self.network.encoders

  @property
  def paths(self) -> tuple[str, ...]:
    """Names of the exits, in the order of the gate's weights."""
    return tuple(f'exit_{k}' for k in range(self.network.stages + 1))

  def given(self) -> Self:
    """The model, of the same variables, that takes exit number `hparams['exit']`."""
    return self.clone(policy=_GIVEN)

  @property
  def side_scales(self) -> tuple[int, ...]:
    """The network's."""
    return self.network.side_scales

  def available(self, inputs: Modalities) -> Flag:
    """Where both modalities are there."""
    return self.network.available(inputs)

  def stem(self, inputs: Modalities, *, train: bool) -> Maps:
    """Both stems, of images `[B, H, W, C]` by modality."""
    return self.network.stem(inputs, train=self._network_trains(train))

  def _network_trains(self, train: bool) -> bool:
    if self.freeze not in FREEZE:
      raise ValueError(f'freeze={self.freeze!r}; expected one of {FREEZE}.')
    return train and self.freeze != 'eval'

  def _asks(self) -> bool:
    """Whether the gate decides; where its variables are drawn, it always does."""
    choices = (*POLICIES, *self.paths)
    if self.policy not in (*choices, _GIVEN):
      raise ValueError(f'policy={self.policy!r}; expected one of {choices}.')
    return self.policy == 'learned' or self.is_initializing()

  def route(self, inputs: Modalities, *, train: bool, hparams) -> tuple[Gated, Maps]:
    """Both stems, and what a policy that asks no gate chooses; see `GatedStages`."""
    maps = self.stem(inputs, train=train)
    rows, exits = maps[0].shape[0], len(self.paths)
    if self.policy == _GIVEN:
      chosen = jnp.full(rows, hparams['exit'])
    elif self.policy != 'random':
      always = (*self.paths, 'last').index(self.policy)
      chosen = jnp.full(rows, min(always, exits - 1))
    elif train:
      keys = row_keys(self.make_rng('gate'), rows, self.axis_name)
      chosen = jax.vmap(lambda key: jax.random.randint(key, (), 0, exits))(keys)
    else:
      chosen = jnp.arange(rows) % exits
    weights = jax.nn.one_hot(chosen, exits, dtype=maps[0].dtype)
    return Gated(weights=weights, logits=weights), maps

  def exit(self, number: int, maps: Maps, *, train: bool) -> Outputs:
    """The network from the stems' maps on, if the second stream ends after `number`."""

    def step(stage, maps):
      return self._pass(stage, maps, stage <= number, train=train)

    return self._walk(maps, step, train=train)

  def _pass(self, stage: int, maps: Maps, joins: bool, *, train: bool) -> Maps:
    """One stage of the main stream, and of the other if that still `joins`."""
    main = self.advance(stage, maps[0], train=train)
    return self.join(stage, main, maps[1], train=train) if joins else (main, None)

  def advance(self, stage: int, main: jax.Array, *, train: bool) -> jax.Array:
    """Stage 1, 2, ... of the main stream, which every exit needs."""
    return self.network.advance(stage, main, None, train=train)[0]

  def join(self, stage: int, main: jax.Array, side: jax.Array, *, train: bool) -> Maps:
    """The same stage of the second stream, and the main one that took it in."""
    _, side = self.network.advance(stage, None, side, train=train)
    return self.network.fuse(stage, main, side), side

  def head(self, maps: Sequence[jax.Array], *, train: bool) -> Outputs:
    """The network from the main stream's maps behind each stage on."""
    return self.network.head(maps, train=train)

  def side_stream(self, number: int, inputs: Modalities, *, train: bool) -> jax.Array:
    """The second stream alone, through `number` stages: what the original prices."""
    return self.network.side_stream(number, inputs, train=train)

  def _walk(self, maps: Maps, step, *, train: bool) -> Outputs:
    """The network behind what `step` makes of the maps, stage by stage."""
    found = []
    for stage in range(1, len(self.paths)):
      maps = step(stage, maps)
      found.append(maps[0])
    return self.head(found, train=train)

  def blend(self, weights: jax.Array, maps: Maps, *, train: bool) -> Outputs:
    """The network from the stems' maps on, under weights `[B, K]` over the exits.

    Behind stage s the main stream is a mean of the maps without and with the other
    stream; the share of the former is that of the exits before s.
    """

    def ended(stage, maps):
      # Equal where rows sum to one; the original's, where a caller's do not.
      last = stage == len(self.paths) - 1
      return 1 - weights[:, -1] if last else weights[:, :stage].sum(axis=1)

    return self._blend(ended, maps, train=train)

  def _blend(
    self, ended: Callable[[int, Maps], jax.Array], maps: Maps, *, train: bool
  ) -> Outputs:
    """The same of shares `[B]` that a function gives, of the maps before a stage."""

    def step(stage, maps):
      left = ended(stage, maps).astype(maps[0].dtype)[:, None, None, None]
      main = self.advance(stage, maps[0], train=train)
      fused, side = self.join(stage, main, maps[1], train=train)
      return left * main + (1 - left) * fused, side

    return self._walk(maps, step, train=train)

  def _weighed(self, gated: Gated, outputs: Outputs) -> Outputs:
    """Outputs with the weights over the exits, and `gate_logits` in `aux`."""
    return Outputs(
      logits=outputs.logits,
      weights={path: gated.weights[:, k] for k, path in enumerate(self.paths)},
      aux={**outputs.aux, 'gate_logits': gated.logits},
    )
