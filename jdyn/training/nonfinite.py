"""What becomes of a step whose numbers are not finite: `stop`, `skip` or `rollback`.

A member halts inside the compiled call, with the state as it was before that step
(`train_step` says at what). Between calls the host looks at the step with `Diagnosis`
and goes by the policy of the run:

- `stop` raises NonFiniteError. What was saved stays as it is.
- `skip` leaves the step out: parameters, optimiser and all else stay, the number of the
  step goes up, and the same call is run again, in which only that member moves. After
  more than `MAX_SKIPS` steps in a row it gives up, since nothing mends a state that is
  not finite itself.
- `rollback` goes back to the last whole checkpoint on disk, or to the start of the
  stage if there is none, and repeats what came after it, all members alike. A passing
  fault leaves no trace. If training does not get past the same step then, the fault is
  in the data or the settings, and NonFiniteError says so.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jdyn import build
from jdyn.data.dataset import Split
from jdyn.training import selection, variables
from jdyn.training.context import Context
from jdyn.training.guard import NAMED, Diagnosis, NonFiniteError
from jdyn.training.parallel import local
from jdyn.training.programs import TrainPrograms
from jdyn.training.state import TrainState

_LOG = logging.getLogger(__name__)

MAX_SKIPS = 10
"""So many steps in a row may be left out."""

_NEVER = -2


class GoBack(Exception):  # noqa: N818
  """Training is to go on from the last checkpoint."""


class GuardedCalls:
  """The compiled training call of a stage, and what the policy makes of its faults."""

  def __init__(
    self,
    stage: build.Stage,
    split: Split,
    feed: Any,
    programs: TrainPrograms,
    contexts: Sequence[Context],
    steps_per_epoch: int,
  ):
    """Compiles nothing yet.

    Args:
      stage: being trained, in all its variants.
      split: the training split.
      feed: of the programs.
      programs: of the stage.
      contexts: of the variants.
      steps_per_epoch: for the schedules.
    """
    self._stage, self._split, self._feed = stage, split, feed
    self._programs, self._contexts = programs, contexts
    self._steps_per_epoch = steps_per_epoch
    self._policy = contexts[0].run.nonfinite
    self._diagnoses: dict[int, Diagnosis] = {}
    self._went_back_from = -1
    size = len(contexts[0].run.seeds) * stage.num_variants
    self._last_skip, self._in_a_row = np.full(size, _NEVER), np.zeros(size, int)

  def __call__(
    self, state: TrainState, data: Any, start: int, xs: Any, stopped: np.ndarray
  ) -> tuple[TrainState, dict[str, np.ndarray]]:
    """One call, until every member is through it.

    Args:
      state: of all members.
      data: of the feed, on the devices.
      start: the number of the first step.
      xs: of the feed, for this call.
      stopped: `[M]`; a member that has stopped before may halt.

    Returns:
      The state after the call, and the metrics `[M, steps]` of `train_step`; under
      `skip` also `skipped`, which steps were left out.

    Raises:
      NonFiniteError: by the policy.
      GoBack: by the policy.
    """
    state, metrics = self._run(state, data, start, xs)
    skipped = np.zeros_like(metrics['applied'])
    while (halted := np.asarray(state.halted) & ~stopped).any():
      state = self._resolve(state, halted, data, start, xs)
      done = np.asarray(state.step)[halted] - start
      skipped[halted, done - 1] = True
      if (done == skipped.shape[1]).all():  # Nothing is left of the call.
        break
      state, again = self._run(state, data, start, xs)
      metrics = _merge(metrics, again)
    if self._policy == 'skip':
      metrics['skipped'] = skipped
    return state, metrics

  def _run(
    self, state: TrainState, data: Any, start: int, xs: Any
  ) -> tuple[TrainState, dict[str, np.ndarray]]:
    state, metrics = self._programs.call(state, data, np.int32(start), xs)
    return state, jax.tree.map(np.asarray, dict(metrics))

  @property
  def meta(self) -> dict[str, Any]:
    """What a checkpoint must hold so that a resumed run goes on alike."""
    if self._policy != 'skip':
      return {}
    return {'skips': [self._last_skip.tolist(), self._in_a_row.tolist()]}

  def restore(self, meta: Mapping[str, Any]) -> None:
    """Goes on from the `meta` of a checkpoint."""
    if 'skips' in meta:
      self._last_skip, self._in_a_row = map(np.array, meta['skips'])

  def _resolve(
    self, state: TrainState, halted: np.ndarray, data: Any, start: int, xs: Any
  ) -> TrainState:
    """The state to go on with after some members halted; else raises."""
    steps = np.asarray(state.step)
    # The first step of all first.
    members = sorted(np.flatnonzero(halted), key=lambda member: steps[member])
    found = [
      self._diagnose(state, m, self._batch(data, start, xs, m, steps[m]))
      for m in (members if self._policy == 'skip' else members[:1])
    ]
    if self._policy == 'stop':
      raise NonFiniteError(
        f'{found[0]} The state before the step is kept; lower optimizer.learning_rate '
        "or look at these examples, or set nonfinite='skip' or 'rollback'."
      )
    if self._policy == 'rollback':
      self._check_passed(found[0], steps[members[0]])
      self._went_back_from = int(steps[halted].max())
      _LOG.error(
        "%s Going back to the last checkpoint (nonfinite='rollback').", found[0]
      )
      raise GoBack
    for member, text in zip(members, found, strict=True):
      self._count_skip(member, int(steps[member]), text)
    put = self._contexts[0].parallel.put
    return dataclasses.replace(
      state,
      step=put(steps + halted.astype(steps.dtype)),
      halted=put(np.asarray(state.halted) & ~halted),
    )

  def _check_passed(self, text: str, step: int) -> None:
    """Raises NonFiniteError if training did not get past where it went back from."""
    if step <= self._went_back_from:
      raise NonFiniteError(
        f'{text} So it was after going back to the last checkpoint, too: the fault is '
        'in the data or the settings, or the machine is broken. Look at these examples '
        "or lower optimizer.learning_rate; nonfinite='skip' leaves such steps out."
      )

  def _count_skip(self, member: int, step: int, text: str) -> None:
    in_a_row = self._in_a_row[member] + 1 if self._last_skip[member] == step - 1 else 1
    self._last_skip[member], self._in_a_row[member] = step, in_a_row
    if in_a_row > MAX_SKIPS:
      raise NonFiniteError(
        f'{text} The {MAX_SKIPS} steps before were left out already (nonfinite='
        "'skip'), so the state or the settings are at fault and not single examples; "
        "lower optimizer.learning_rate, or go back with nonfinite='rollback'."
      )
    _LOG.error("%s This step is left out (nonfinite='skip').", text)

  def _batch(self, data: Any, start: int, xs: Any, member: int, step: int) -> Any:
    """The batch of a step of one member, as the device had it."""
    seed = member // self._stage.num_variants
    data = jax.tree.map(local, data)
    if data:
      own = {name: data['inputs'][name][:, seed] for name in self._split.per_seed}
      data = {**data, 'inputs': {**data['inputs'], **own}}
    x = jax.tree.map(lambda x: x[seed, step - start], xs)
    return jax.device_get(self._feed.fetch(data, x))

  def _diagnose(self, state: TrainState, member: int, batch: Any) -> str:
    variant = member % self._stage.num_variants
    context = self._contexts[variant]
    if variant not in self._diagnoses:
      # Built anew for one device: outside the compiled program no axis is bound.
      main = build.stage(context.config, context.dataset.spec)
      single = build.find_stage(main, self._stage.name)
      ids = self._split.ids
      self._diagnoses[variant] = Diagnosis(single, self._steps_per_epoch, ids)
    one = jax.device_get(variables.for_seed(jax.tree.map(local, state), member))
    text = self._diagnoses[variant](one, batch)
    return text if self._stage.num_variants == 1 else f'{context.workdir.name}: {text}'


def _merge(
  before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Metrics of a call that was run again, each step from when it was applied."""
  new = after['applied']
  merged = {name: np.where(new, after[name], before[name]) for name in before}
  return {**merged, 'applied': new | before['applied']}


def applied_means(metrics: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Means `[M]` over the steps of a call that were applied, NaN where none was.

  Args:
    metrics: `[M, steps]`, as `GuardedCalls` returns them. Of `skipped` it is the sum,
      and `applied` is left out.
  """
  applied, means = metrics['applied'], {}
  for name in sorted(metrics.keys() - {'applied', 'skipped'}):
    rows = [value[here] for value, here in zip(metrics[name], applied, strict=True)]
    means[name] = np.array([row.mean() if row.size else np.nan for row in rows])
  if 'skipped' in metrics:
    means['skipped'] = metrics['skipped'].sum(axis=1)
  return means


def disqualify(
  record: Mapping[str, np.ndarray],
  select: str,
  finite: np.ndarray,
  ids: Sequence[str],
  epoch: int,
  names: Mapping[int, str],
) -> dict[str, np.ndarray]:
  """Scores of an epoch, all of them NaN for members whose logits are not all finite.

  The task's scores alone would not tell: the likeliest of some NaN is a class, too. A
  score that is NaN is never the best.

  Args:
    record: scores `[M]`.
    select: the score that picks the best epoch.
    finite: `[M, N]`, which validation examples have finite logits.
    ids: of these examples.
    epoch: for the message.
    names: of the members that are still in training.
  """
  for member, name in names.items():
    bad = ~finite[member]
    if bad.any():
      _LOG.error(
        'Non-finite validation in %s, epoch %d: the logits of %d of %d examples, %s. '
        'This epoch has no scores and cannot be the best.',
        name,
        epoch,
        bad.sum(),
        bad.size,
        [str(key) for key in np.asarray(ids)[bad][:NAMED]],
      )
    elif not np.isfinite(record[select][member]):
      _LOG.error(
        'Non-finite validation in %s, epoch %d: %s is %s, though all logits are '
        'finite. This epoch cannot be the best.',
        name,
        epoch,
        select,
        record[select][member],
      )
  whole = finite.all(axis=1)
  return {key: np.where(whole, value, np.nan) for key, value in record.items()}


def check_best(best: selection.Best, select: str, names: Sequence[str]) -> None:
  """That every member has an epoch to be judged by.

  Args:
    best: at the end of training.
    select: the score that picks it.
    names: of the members.

  Raises:
    NonFiniteError: the validation score of some member was finite in no epoch.
  """
  for epoch, name in zip(best.epoch, names, strict=True):
    if not epoch:
      raise NonFiniteError(
        f'Non-finite validation in {name}: {select} was finite after no epoch, so none '
        'is the best. Look at the examples that were named in the log, or lower '
        'optimizer.learning_rate.'
      )
