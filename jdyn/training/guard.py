"""Says where the numbers of a step stopped being finite."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdyn.build import Stage
from jdyn.training.state import TrainState
from jdyn.training.step import propose

NAMED = 8
"""So many examples are named in a message."""


class NonFiniteError(FloatingPointError):
  """Numbers that are not finite; the message names leaf, step and examples."""


class Diagnosis:
  """Takes a step again, by itself, and looks at all that goes in and comes out."""

  def __init__(self, stage: Stage, steps_per_epoch: int, ids: Sequence[str]):
    """Compiles nothing yet.

    Args:
      stage: being trained, built for one device.
      steps_per_epoch: for its schedules.
      ids: of the training examples.
    """
    self._stage, self._ids = stage, ids
    step = partial(
      propose,
      model=stage.trained,
      tx=stage.make_optimizer(steps_per_epoch),
      terms=stage.terms,
      schedules=stage.make_schedules(steps_per_epoch),
      dtype=stage.dtype,
      missing_rate=stage.missing_rate,
    )

    def take(state, batch):
      made = step(state, batch)
      groups = [*_parts(state), made.grads, *_parts(made.updated)]
      losses = stage.task.loss(made.outputs.logits, batch)
      return made.loss, made.grad_norm, _finite(groups), losses

    self._take = jax.jit(take)

  def __call__(self, state: TrainState, batch: Mapping[str, Any]) -> str:
    """What was wrong with the step at which a seed halted.

    Args:
      state: of that seed, as it was before the step.
      batch: of that step.
    """
    loss, grad_norm, groups, losses = jax.device_get(self._take(state, batch))
    leaf = _first_bad(groups)
    if not leaf and np.isfinite(loss):
      leaf = (
        'none when computed again, which speaks for a passing fault of the machine'
        if np.isfinite(grad_norm)
        else "none, but the gradient's norm overflows"
      )
    bad = ~_finite_rows((batch['inputs'], batch['label']), len(batch['index']))
    if not bad.any() and _first_bad(groups[: len(_PARTS)]) == '':
      bad = ~_finite_rows(losses, len(batch['index']))
    # An example may be twice in a batch that runs on into the next epoch.
    rows = dict.fromkeys(np.asarray(batch['index'])[bad].tolist())
    ids = [str(self._ids[row]) for row in rows]
    return (
      f'Non-finite training in stage {self._stage.name!r}, seed {int(state.seed)}, '
      f'step {int(state.step)}: loss={float(loss)}, first bad leaf {leaf or "none"}, '
      f'examples {ids[:NAMED] or "all finite"}.'
    )


_PARTS = ('params', 'collections', 'opt_state', 'memory')
_GROUPS = (*_PARTS, 'gradient', *(f'updated {part}' for part in _PARTS))


def _parts(state: TrainState) -> list[Any]:
  return [getattr(state, part) for part in _PARTS]


def _finite(tree: Any) -> Any:
  return jax.tree.map(lambda leaf: jnp.all(jnp.isfinite(leaf)), tree)


def _first_bad(groups: Sequence[Any]) -> str:
  """The first leaf that is not finite, what went in first; empty if all are."""
  for name, group in zip(_GROUPS, groups, strict=False):
    for path, finite in jax.tree_util.tree_leaves_with_path(group):
      if not finite:
        return name + jax.tree_util.keystr(path)
  return ''


def _finite_rows(tree: Any, size: int) -> np.ndarray:
  """Of which rows all leaves are finite: `bool[size]`."""
  leaves = [np.isfinite(leaf).reshape(size, -1) for leaf in jax.tree.leaves(tree)]
  return np.concatenate(leaves, axis=1).all(axis=1)
