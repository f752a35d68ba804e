"""Schedules and optimisers from plain values, all of them optax's."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

EXPERTS = 'experts_'
"""Prefix of the parameters of experts in a gated mixture's tree."""

RISE = 0.1
"""Share of a cycle's epochs in which it goes up."""


def _ramp(name: str, init: float, end: float, steps: int) -> optax.Schedule:
  if name == 'constant':
    return optax.constant_schedule(init)
  if name == 'linear':
    return optax.linear_schedule(init, end, steps)
  if name in ('exponential', 'staircase'):
    if init <= 0 or end <= 0:
      raise ValueError(
        f'Schedule {name!r} needs positive values, got {init} and {end}.'
      )
    if name == 'staircase':
      return lambda step: init * (end / init) ** (step // steps)
    # Both ends are given, as for DynMM's temperature; optax's decay takes a rate.
    return lambda step: init * (end / init) ** (jnp.minimum(step, steps) / steps)
  if name == 'cosine':
    cosine = optax.cosine_decay_schedule(1.0, steps)
    return lambda step: end + (init - end) * cosine(step)
  raise ValueError(
    f'Unknown schedule {name!r}; expected constant, linear, exponential, staircase or '
    'cosine, and of a learning rate one_cycle.'
  )


def make_schedule(
  name: str, init_value: float, end_value: float, steps: int, warmup_steps: int = 0
) -> optax.Schedule:
  """A function of the step: linear warm-up from 0, then `name` from init to end.

  Args:
    name: constant, linear, exponential, staircase or cosine.
    init_value: at the end of the warm-up.
    end_value: `steps` later; held from there on, but for `staircase`, which is constant
      between and goes on to multiply by the same factor every `steps`.
    steps: from init to end.
    warmup_steps: before that.
  """
  ramp = _ramp(name, init_value, end_value, max(steps, 1))
  if not warmup_steps:
    return ramp
  warmup = optax.linear_schedule(0.0, init_value, warmup_steps)
  return optax.join_schedules([warmup, ramp], [warmup_steps])


def one_cycle(
  start: float, top: float, end: float, epochs: int, steps_per_epoch: int
) -> optax.Schedule:
  """From start to top and to end in two half cosines, constant within an epoch.

  It is torch's `OneCycleLR` if that is stepped once per epoch: it comes to the top one
  epoch before a tenth of the epochs is over, and to the end with the last epoch.

  Args:
    start: in the first epoch; where a tenth of the epochs is no more than one, the
      first one is at the top.
    top: the highest, or lowest, value.
    end: in the last epoch.
    epochs: of the whole cycle.
    steps_per_epoch: between changes.
  """
  peak, last = max(RISE * epochs - 1, 0.0), epochs - 1

  def value(step):
    epoch = jnp.minimum(step // steps_per_epoch, last).astype(jnp.float32)
    rise = jnp.clip(epoch / peak, 0, 1) if peak else jnp.ones(())
    fall = jnp.clip((epoch - peak) / max(last - peak, 1), 0, 1)
    up = top + (start - top) * (1 + jnp.cos(jnp.pi * rise)) / 2
    down = end + (top - end) * (1 + jnp.cos(jnp.pi * fall)) / 2
    return jnp.where(epoch <= peak, up, down)

  return value


def make_optimizer(
  name: str,
  learning_rate: optax.Schedule,
  *,
  weight_decay: float = 0.0,
  momentum: float | optax.Schedule = 0.0,
  nesterov: bool = False,
  clip_norm: float = 0.0,
  expert_scale: float = 1.0,
  fixed: Sequence[str] = (),
) -> optax.GradientTransformation:
  """Clipping by global norm, then the optimiser, then the experts' factor.

  The update rules are torch's: AdamW decays decoupled, the others add the decay to
  the gradient. Decay acts on every parameter, biases and norms included, as in the
  originals.

  Args:
    name: adamw, adam, sgd or rmsprop.
    learning_rate: by step.
    weight_decay: factor.
    momentum: of sgd and rmsprop; for sgd it may vary by step.
    nesterov: of sgd: look ahead.
    clip_norm: bound on the gradient's global norm; 0 switches clipping off.
    expert_scale: factor on the updates of experts in a gated mixture; 0 fixes them.
    fixed: modules whose parameters stay as they are.

  Raises:
    ValueError: unknown name, or a momentum by step of another optimiser than sgd.
  """
  if callable(momentum) and name != 'sgd':
    raise ValueError(f'optimizer {name!r} takes a constant momentum; sgd does not.')
  decay = [optax.add_decayed_weights(weight_decay)] if weight_decay else []
  rules: dict[str, Callable[[], list]] = {
    'adamw': lambda: [optax.adamw(learning_rate, weight_decay=weight_decay)],
    'adam': lambda: [*decay, optax.adam(learning_rate)],
    'sgd': lambda: [*decay, _sgd(learning_rate, momentum, nesterov)],
    # torch: square average decays by 0.99, and epsilon stands outside the root.
    'rmsprop': lambda: [
      *decay,
      optax.rmsprop(
        learning_rate, decay=0.99, eps=1e-8, eps_in_sqrt=False, momentum=momentum
      ),
    ],
  }
  if name not in rules:
    raise ValueError(f'Unknown optimizer {name!r}; expected one of {sorted(rules)}.')
  # In torch a fixed parameter has no gradient, so it does not count for clipping.
  chain = [_scale(0.0, fixed)] if fixed else []
  chain += [] if expert_scale else [_scale(0.0, [EXPERTS])]
  chain += [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
  chain += rules[name]()
  if expert_scale != 1.0:
    chain.append(_scale(expert_scale, [EXPERTS]))
  # Again, since weight decay moves what has no gradient.
  chain += [_scale(0.0, fixed)] if fixed else []
  return optax.chain(*chain)


def _sgd(
  learning_rate: optax.Schedule, momentum: float | optax.Schedule, nesterov: bool
) -> optax.GradientTransformation:
  if not callable(momentum):
    return optax.sgd(learning_rate, momentum=momentum or None, nesterov=nesterov)
  # The state keeps count of the steps, once more.
  return optax.inject_hyperparams(optax.sgd, static_args=('nesterov',))(
    learning_rate, momentum=momentum, nesterov=nesterov
  )


def _scale(factor: float, modules: Sequence[str]) -> optax.GradientTransformation:
  """Multiplies the updates of modules whose names start so."""

  def scaled(path, update):
    here = str(getattr(path[0], 'key', '')).startswith(tuple(modules))
    return update * factor if here else update

  def scale(updates, params):
    del params  # Only the place in the tree decides.
    return jax.tree_util.tree_map_with_path(scaled, updates)

  return optax.stateless(scale)
