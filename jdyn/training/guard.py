"""Says where a loss or gradient stopped being finite."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdyn.build import Stage
from jdyn.training.programs import hparams_at
from jdyn.training.state import TrainState
from jdyn.training.step import objective


class NonFiniteError(FloatingPointError):
  """A non-finite loss or gradient; the message names leaf, step and examples."""


def diagnose(
  stage: Stage,
  state: TrainState,
  batch: Mapping[str, Any],
  schedules: Mapping[str, Any],
  ids: Sequence[str],
) -> NonFiniteError:
  """The error for the step at which a seed halted.

  Args:
    stage: being trained, built for one device.
    state: of that seed, as it was before the bad step.
    batch: of that step.
    schedules: of the stage.
    ids: of the training examples.
  """
  hparams = hparams_at(schedules, state.step)

  def share(params):
    return objective(
      params,
      state,
      batch,
      model=stage.trained,
      terms=stage.terms,
      hparams=hparams,
      dtype=stage.dtype,
      missing_rate=stage.missing_rate,
    )

  (loss, (outputs, *_)), grads = jax.value_and_grad(share, has_aux=True)(state.params)
  leaves = [
    jax.tree_util.keystr(path)
    for tree in (state.params, grads)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    if not bool(jnp.all(jnp.isfinite(leaf)))
  ]
  rows = np.asarray(batch['index'])[_bad_rows(stage, outputs, batch)]
  return NonFiniteError(
    f'Non-finite training in stage {stage.name!r}, seed {int(state.seed)}, step '
    f'{int(state.step)}: loss={float(loss)}, first bad leaf '
    f'{leaves[0] if leaves else "none"}, examples '
    f'{[str(ids[row]) for row in rows[:8]] or "all finite"}. The state before the '
    'step is kept; lower optimizer.learning_rate or look at these examples.'
  )


def _bad_rows(stage: Stage, outputs: Any, batch: Mapping[str, Any]) -> np.ndarray:
  """Rows of the batch with a non-finite input or loss."""
  size = len(batch['index'])
  loss = np.asarray(stage.task.loss(outputs.logits, batch))
  bad = ~np.isfinite(loss).reshape(size, -1).all(1)
  for leaf in jax.tree.leaves(batch['inputs']):
    bad |= ~np.isfinite(np.asarray(leaf, np.float64).reshape(size, -1)).all(1)
  return np.flatnonzero(bad)
