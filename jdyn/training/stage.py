"""Trains one stage: from a checkpoint or from nothing, to its result file.

In a sweep the stage comes in variants that differ in their schedules alone. They
train in one program, with one member per seed and variant (see `programs`), and each
leaves what it would have left by itself.
"""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdyn import build
from jdyn.data.dataset import Split
from jdyn.data.order import chain_hash, split_steps, train_rows
from jdyn.evaluators.attendance import judged
from jdyn.models.precomputed import hidden_key, logits_key
from jdyn.optimizer import EXPERTS
from jdyn.training import hosts, selection, variables
from jdyn.training.checkpoint import Checkpoints
from jdyn.training.context import Context, Preempted
from jdyn.training.feed import make_feed
from jdyn.training.logging import Progress
from jdyn.training.nonfinite import (
  GoBack,
  GuardedCalls,
  applied_means,
  check_best,
  disqualify,
)
from jdyn.training.predict import predict, read_hparams
from jdyn.training.programs import Evaluator, TrainPrograms, hparams_at, of_variant
from jdyn.training.result import write_results
from jdyn.training.state import TrainState
from jdyn.training.step import weight_key
from jdyn.training.variant_logs import VariantLogs
from jdyn.typing import Batch, Outputs

_LOG = logging.getLogger(__name__)


def train_stage(
  stage: build.Stage,
  splits: Mapping[str, Split],
  before: Mapping[str, Any],
  context: Context,
) -> None:
  """Trains a stage and writes its best variables, predictions and result.

  Args:
    stage: to be trained.
    splits: `train` is what this stage may see of it.
    before: variables `[S, ...]` of the stages before it, by name.
    context: of the run.

  Raises:
    NonFiniteError: numbers were not finite (see `nonfinite`).
    Preempted: SIGTERM came; the state is saved.
  """
  checkpoints = context.folder(stage) / 'checkpoints'
  train_variants([stage], splits, before, [context], checkpoints)


def train_variants(
  stages: Sequence[build.Stage],
  splits: Mapping[str, Split],
  before: Mapping[str, Any],
  contexts: Sequence[Context],
  checkpoints: Path,
) -> None:
  """Trains variants of a stage in one program, and writes the result of each.

  Args:
    stages: the variants; `build.merge` says in what they may differ.
    splits: `train` is what the stage may see of it.
    before: variables `[S, ...]` of the stages before it, by name.
    contexts: of the variants, which differ in config and folder alone.
    checkpoints: folder of those of all variants together.

  Raises:
    ValueError: examples lack a modality without which the model cannot judge.
    NonFiniteError: numbers were not finite (see `nonfinite`).
    Preempted: SIGTERM came; the state is saved.
  """
  stage, context = stages[0], contexts[0]
  experts = {path: before[path] for path in stage.experts}
  splits = {name: _judged(stage, name, split) for name, split in splits.items()}
  read = dict(splits)
  if stage.frozen:
    read = _add_expert_outputs(stage, read, experts, context)
  read = {name: split.only(stage.inputs) for name, split in read.items()}
  start = _start(stage, before, context)
  trainer = _Trainer(build.merge(stages), read, start, contexts, checkpoints)
  best, hparams = trainer.train()
  write_results(stages, splits, experts, best, hparams, contexts)


def check_stage(
  stage: build.Stage, splits: Mapping[str, Split], context: Context
) -> None:
  """Finds what `train_stage` would refuse, before anything is compiled.

  Args:
    stage: to be trained.
    splits: as it may see them.
    context: of the run.

  Raises:
    ConfigError: the data or the devices do not fit the stage.
    CheckpointError: variables to start with are not there.
  """
  run, size = context.run, len(splits['train'])
  if stage.batch_size > size:
    raise build.ConfigError(
      f'{stage.name}: batch_size={stage.batch_size} is more than the {size} examples '
      'that the stage is trained on; take fewer.'
    )
  try:
    context.parallel.check(stage.batch_size)
    for name, split in splits.items():
      _judged(stage, name, split)
    names = [name for name in stage.inputs if name in splits['train'].inputs]
    if stage.frozen:
      _check_repeatable(splits['train'])
    make_feed(
      splits['train'].only(names),
      run.seeds,
      stage.batch_size,
      feed=run.feed,
      device_bytes=run.device_bytes,
      num_threads=run.host_threads,
    )
  except ValueError as error:
    raise build.ConfigError(f'{stage.name}: {error}') from error
  for place, folder in stage.pretrained.items():
    variables.load_pretrained(
      Path(folder), place, stage, context.dataset.spec, run.seeds
    )


def _check_repeatable(train: Split) -> None:
  """Raises ValueError if the examples are others each time they are drawn."""
  if train.augment:
    raise ValueError(
      'frozen experts judge every example once, and training augments it anew each '
      "time; set freeze='none'."
    )


def _start(
  stage: build.Stage, before: Mapping[str, Any], context: Context
) -> Mapping[str, Any]:
  """Variables `[S, ...]` to start with, by their place in those of the stage."""
  spec, seeds = context.dataset.spec, context.run.seeds
  found = {}
  for name in stage.warm_up:
    found[''] = before[name]
  if not stage.frozen:
    found |= {f'{EXPERTS}{path}': before[path] for path in stage.experts}
  for place, folder in stage.pretrained.items():
    found[place] = variables.load_pretrained(Path(folder), place, stage, spec, seeds)
  return found


def _judged(stage: build.Stage, name: str, split: Split) -> Split:
  """The examples that an expert can judge; the main model must judge all."""
  found = judged(stage.model, split)
  if not len(found) or (stage.name == build.MAIN and len(found) < len(split)):
    raise ValueError(
      f'Stage {stage.name}: {len(split) - len(found)} of {len(split)} examples of '
      f'split {name} lack a modality without which the model cannot judge. A '
      'decision_fusion of experts can, or a feature_fusion with '
      'absent_embedding=True; or remove them.'
    )
  return found


def _add_expert_outputs(
  stage: build.Stage,
  splits: Mapping[str, Split],
  experts: Mapping[str, Any],
  context: Context,
) -> dict[str, Split]:
  """Splits with the logits of every frozen expert as further inputs `[N, S, C]`.

  Likewise the hidden states `[N, S, ...]` of the experts whose own the gate reads. An
  expert in evaluation mode is a constant function of the example, so each is
  run once and not once per epoch.
  """
  found = {}
  for name, split in splits.items():
    cached = {}
    for path, expert in sorted(stage.experts.items()):
      hparams = read_hparams(context.folder(expert))
      keep = partial(_cached, path, stage.inputs)
      outputs = _predict(expert, split, experts[path], hparams, context, keep=keep)
      cached |= {name: np.moveaxis(value, 0, 1) for name, value in outputs.items()}
    inputs = {**split.inputs, **cached}
    found[name] = dataclasses.replace(split, inputs=inputs, per_seed=tuple(cached))
  return found


def _cached(
  path: str, names: Sequence[str], outputs: Outputs, batch: Batch
) -> dict[str, jax.Array]:
  """What of an expert's outputs a stage that reads `names` looks up."""
  del batch
  found = {logits_key(path): outputs.logits, hidden_key(path): outputs.hidden}
  return {name: value for name, value in found.items() if name in names}


def _predict(stage, split, found, hparams, context: Context, **options) -> Any:
  return predict(
    stage,
    split,
    found,
    hparams,
    parallel=context.parallel,
    device_bytes=context.run.device_bytes,
    **options,
  )


class _Trainer:
  """The training of one stage: what it holds between epochs."""

  def __init__(self, stage, splits, start, contexts, checkpoints):
    self._stage, self._contexts, self._context = stage, contexts, contexts[0]
    self._checkpoints = checkpoints
    run = self._context.run
    self._train, self._valid_ids = splits['train'], splits['valid'].ids
    self._steps_per_epoch = -(-len(self._train) // stage.batch_size)
    self._feed = make_feed(
      self._train,
      run.seeds,
      stage.batch_size,
      feed=run.feed,
      device_bytes=run.device_bytes,
      num_threads=run.host_threads,
      own=self._context.parallel.own_rows(stage.batch_size),
    )
    self._programs = TrainPrograms(
      stage,
      self._train,
      self._feed,
      self._context.parallel,
      len(run.seeds),
      self._steps_per_epoch,
      run.unroll,
    )
    self._call = GuardedCalls(
      stage,
      self._train,
      self._feed,
      self._programs,
      contexts,
      self._steps_per_epoch,
    )
    self._validate = Evaluator(
      stage.trained,
      splits['valid'],
      self._context.parallel,
      len(run.seeds),
      task=stage.task,
      terms=stage.terms,
      batch_size=stage.batch_size,
      device_bytes=run.device_bytes,
      num_variants=stage.num_variants,
    )
    self._update_best = jax.jit(
      partial(selection.update, maximize=stage.maximize, patience=stage.patience),
      donate_argnums=(0,),
    )
    self._start = start
    self._saved_at = time.monotonic()

  def train(self) -> tuple[selection.Best, Mapping[str, np.ndarray]]:
    """Trains to the end; the best epoch of each member, and its `hparams`."""
    background = self._context.run.checkpoint_async
    with Checkpoints(self._checkpoints, background=background) as checkpoints:
      checkpoints.clean()
      while True:
        try:
          best = self._train_on(checkpoints)
          break
        except GoBack:
          checkpoints.wait()
    names = [self._member_name(member) for member in range(self._num_members)]
    check_best(best, self._stage.select, names)
    return best, self._hparams(best.epoch * self._steps_per_epoch)

  def _train_on(self, checkpoints: Checkpoints) -> selection.Best:
    """Trains from the last checkpoint, or from the start, to the end.

    Raises:
      GoBack: this is to be called again.
    """
    with contextlib.ExitStack() as stack:
      state, best, chain, marks = self._begin(checkpoints)
      # A member that has stopped may have halted since, and stays behind.
      step = int(np.max(np.asarray(state.step)))
      logs = VariantLogs(self._stage, self._contexts, step, marks)
      stack.callback(logs.close)
      total = self._stage.epochs * self._steps_per_epoch
      examples = self._stage.batch_size * self._num_members
      progress = Progress(self._title, total, examples)
      stack.callback(progress.close)
      data = self._context.parallel.put(self._feed.data)
      calls = self._calls(step)
      for (start, steps), xs in zip(calls, self._feed.calls(calls), strict=True):
        stopped = np.asarray(best.stopped)
        state, metrics = self._call(state, data, start, xs, stopped)
        self._context.first_step.report()
        checkpoints.check()
        self._context.lock.check()
        step = start + steps
        chain = chain_hash(chain, self._rows(start, steps))
        records = self._train_records(step, metrics, chain)
        logs.write(records, stopped)
        text = f'step {step}/{total}  loss {records["loss"].mean():.4f}'
        epoch_done = step % self._steps_per_epoch == 0
        if epoch_done:
          epoch = step // self._steps_per_epoch
          records, score = self._evaluate(state, epoch, step, stopped)
          best = self._update_best(best, state.variables, score, np.int32(epoch))
          logs.write(records, stopped)
          text += f'  {self._stage.select} {score.mean():.4f}'
        progress.show(step, text, epoch_done=epoch_done)
        done = step == total or bool(np.all(best.stopped))
        self._save_if_due(checkpoints, state, best, chain, logs, step, done)
        if done:
          break
    if step < total:
      _LOG.info(
        'Stage %s stops after epoch %d of %d: no better %s in patience=%d epochs.',
        *(self._title, step // self._steps_per_epoch, self._stage.epochs),
        *(self._stage.select, self._stage.patience),
      )
    return jax.tree.map(np.asarray, best)

  def _begin(
    self, checkpoints: Checkpoints
  ) -> tuple[TrainState, selection.Best, str, list[dict[str, Any]]]:
    """What to go on from, the last checkpoint or the start.

    Returns:
      State, best, the batch hash, and the marks of the logs (see `VariantLogs`).
    """
    seeds = jnp.asarray(self._context.run.seeds, jnp.uint32)
    state = self._programs.start(seeds)
    if self._start:
      repeat = partial(np.repeat, repeats=self._stage.num_variants, axis=0)
      found = variables.place(state.variables, jax.tree.map(repeat, dict(self._start)))
      params = found.pop('params')
      state = dataclasses.replace(state, params=params, collections=found)
    best = selection.start(state.variables, self._num_members, self._stage.maximize)
    chain, marks = '', []
    if restored := checkpoints.restore({'state': state, 'best': best}):
      items, meta = restored
      state, best = items['state'], items['best']
      chain, marks = meta['batch_hash'], meta['logs']
      self._call.restore(meta)
      _LOG.info('Stage %s goes on from step %d.', self._title, meta['step'])
    # NumPy arrays go wherever the state lies, be it on one device or on many hosts.
    best = jax.tree.map(np.asarray, best)
    return self._context.parallel.put(state), best, chain, marks

  def _calls(self, step: int) -> list[tuple[int, int]]:
    """All `(first step, steps)` calls from `step` on; epochs start with a new call."""
    calls = []
    for epoch in range(self._stage.epochs):
      start = epoch * self._steps_per_epoch
      for steps in split_steps(self._steps_per_epoch, self._context.run.steps_per_call):
        calls.append((start, steps))
        start += steps
    return [call for call in calls if call[0] >= step]

  def _rows(self, start: int, steps: int) -> np.ndarray:
    size, batch = len(self._train), self._stage.batch_size
    seeds = self._context.run.seeds
    return np.stack([train_rows(seed, size, batch, start, steps) for seed in seeds])

  @property
  def _num_members(self) -> int:
    return len(self._context.run.seeds) * self._stage.num_variants

  def _member_name(self, member: int) -> str:
    seed, variant = divmod(int(member), self._stage.num_variants)
    where = f'stage {self._stage.name!r}, seed {self._context.run.seeds[seed]}'
    one = self._stage.num_variants == 1
    return where if one else f'{self._contexts[variant].workdir.name}: {where}'

  @property
  def _title(self) -> str:
    variants, seeds = self._stage.num_variants, len(self._context.run.seeds)
    name = self._stage.name
    return name if variants == 1 else f'{name}: {variants} variants x {seeds} seeds'

  def _hparams(self, steps: np.ndarray) -> dict[str, np.ndarray]:
    """What varies by step as it is at evaluation, for the step `[M]` of each member."""
    num_variants = self._stage.num_variants

    def values_at(step, variant):
      schedules = of_variant(self._programs.schedules, variant, num_variants)
      return hparams_at(schedules, step)

    variants = np.arange(len(steps)) % num_variants
    values = jax.vmap(values_at)(jnp.asarray(steps), jnp.asarray(variants))
    return jax.tree.map(np.asarray, self._stage.eval_hparams(values))

  def _train_records(self, step: int, metrics, chain: str) -> dict[str, Any]:
    """The lines of the log for a call: means over the steps that were applied."""
    means, epoch = applied_means(metrics), step / self._steps_per_epoch
    return {
      'split': 'train',
      'step': step,
      'epoch': epoch,
      'batch_hash': chain,
      **means,
    }

  def _evaluate(self, state: TrainState, epoch: int, step: int, stopped: np.ndarray):
    """The validation lines of an epoch, and the score `[M]` that selects."""
    stage, size = self._stage, self._num_members
    hparams = self._hparams(np.full(size, step))
    sums, finite, _ = self._validate(state.variables, hparams, state.memory)
    rows = []
    for m in range(size):
      one = jax.tree.map(lambda x, m=m: x[m], sums)
      row = stage.task.scores(one['task'])
      row['objective'] = sum(
        float(hparams[weight_key(name)][m]) * float(mean.compute())
        for name, mean in one['terms'].items()
      )
      for path, total in one['usage'].items():
        row[f'usage/{path}'] = float(total / one['count'])
      rows.append(row)
    record = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    names = {m: self._member_name(m) for m in np.flatnonzero(~stopped)}
    record = disqualify(record, stage.select, finite, self._valid_ids, epoch, names)
    score = record[stage.select].astype(np.float32)
    return {'split': 'valid', 'step': step, 'epoch': epoch, **record}, score

  def _save_if_due(self, checkpoints, state, best, chain, logs, step, done) -> None:
    """Saves by the clock and when asked to end.

    Raises:
      Preempted: the process was asked to end, and the state is on disk.
    """
    elapsed = time.monotonic() - self._saved_at
    stopping, due = hosts.any_of(
      self._context.stop.set, elapsed >= self._context.run.checkpoint_seconds
    )
    stopping = stopping and not done
    if stopping or (due and not done):
      items = {'state': state, 'best': best}
      meta = {'batch_hash': chain, 'logs': logs.marks(), **self._call.meta}
      checkpoints.save(step, items, meta)
      self._saved_at = time.monotonic()
    if stopping:
      checkpoints.wait()
      raise Preempted(
        f'Asked to end: stage {self._stage.name} is saved at step {step}. The same '
        'command goes on from there.'
      )
