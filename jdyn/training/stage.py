"""Trains one stage: from a checkpoint or from nothing, to its result file."""

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdyn import build
from jdyn.data.dataset import Split
from jdyn.data.order import chain_hash, split_steps, train_rows
from jdyn.data.pipeline import assemble
from jdyn.evaluators.predictions import from_outputs, score_all
from jdyn.models.precomputed import hidden_key, logits_key
from jdyn.training import selection, variables
from jdyn.training.checkpoint import Checkpoints
from jdyn.training.context import Context, Preempted
from jdyn.training.feed import make_feed
from jdyn.training.guard import diagnose
from jdyn.training.logging import MetricLog, Progress, write_json
from jdyn.training.predict import predict, read_hparams
from jdyn.training.programs import Evaluator, TrainPrograms, hparams_at
from jdyn.training.state import TrainState
from jdyn.training.step import weight_key
from jdyn.typing import Outputs

_LOG = logging.getLogger(__name__)

# Share of validation examples below which a path counts as dead.
_COLLAPSE = 0.01


def train_stage(
  stage: build.Stage,
  splits: Mapping[str, Split],
  experts: Mapping[str, Any],
  context: Context,
) -> None:
  """Trains a stage and writes its best variables, predictions and result.

  Args:
    stage: to be trained.
    splits: `train` is what this stage may see of it.
    experts: variables `[S, ...]` of its experts, by path.
    context: of the run.

  Raises:
    NonFiniteError: a loss or gradient was not finite.
    Preempted: SIGTERM came; the state is saved.
  """
  folder = context.folder(stage)
  folder.mkdir(parents=True, exist_ok=True)
  read = dict(splits)
  if stage.frozen:
    read = _add_expert_outputs(stage, read, experts, context)
  read = {name: split.only(stage.inputs) for name, split in read.items()}
  trainer = _Trainer(stage, read, experts, folder, context)
  best, hparams = trainer.train()
  whole = variables.join(best.variables, experts if stage.frozen else {})
  variables.save_best(folder, int(np.max(best.epoch)), whole)
  _write_result(stage, splits, whole, best, hparams, context)


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


def _cached(path: str, names: Sequence[str], outputs: Outputs) -> dict[str, jax.Array]:
  """What of an expert's outputs a stage that reads `names` looks up."""
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

  def __init__(self, stage, splits, experts, folder, context):
    self._stage, self._context, self._folder = stage, context, folder
    run = context.run
    self._train = splits['train']
    self._steps_per_epoch = -(-len(self._train) // stage.batch_size)
    self._feed = make_feed(
      self._train,
      run.seeds,
      stage.batch_size,
      feed=run.feed,
      device_bytes=run.device_bytes,
      num_threads=run.host_threads,
    )
    self._programs = TrainPrograms(
      stage,
      self._train,
      self._feed,
      context.parallel,
      len(run.seeds),
      self._steps_per_epoch,
      run.unroll,
    )
    self._validate = Evaluator(
      stage.trained,
      splits['valid'],
      context.parallel,
      len(run.seeds),
      task=stage.task,
      terms=stage.terms,
      batch_size=stage.batch_size,
      device_bytes=run.device_bytes,
    )
    self._update_best = jax.jit(
      partial(selection.update, maximize=stage.maximize, patience=stage.patience),
      donate_argnums=(0,),
    )
    self._start_experts = {} if stage.frozen else experts
    self._saved_at = time.monotonic()
    self._warned: set[str] = set()

  def train(self) -> tuple[selection.Best, Mapping[str, np.ndarray]]:
    """Trains to the end; the best epoch of each seed, and its `hparams`."""
    with Checkpoints(self._folder / 'checkpoints') as checkpoints:
      state, best, chain = self._begin(checkpoints)
      step = int(state.step[0])
      log = MetricLog(self._folder, step)
      total = self._stage.epochs * self._steps_per_epoch
      progress = Progress(
        self._stage.name,
        total,
        step,
        self._stage.batch_size * len(self._context.run.seeds),
      )
      data = self._context.parallel.put(self._feed.data)
      calls = self._calls(step)
      for (start, steps), xs in zip(calls, self._feed.calls(calls), strict=True):
        state, metrics = self._programs.call(state, data, xs)
        metrics = jax.tree.map(np.asarray, metrics)
        self._context.first_step.report()
        step = start + steps
        self._check_finite(state)
        chain = chain_hash(chain, self._rows(start, steps))
        log.write(self._train_record(step, metrics, chain))
        text = f'step {step}/{total}  loss {metrics["loss"].mean():.4f}'
        epoch_done = step % self._steps_per_epoch == 0
        if epoch_done:
          epoch = step // self._steps_per_epoch
          record, score = self._evaluate(state, epoch, step)
          best = self._update_best(best, state.variables, score, jnp.asarray(epoch))
          log.write(record)
          text += f'  {self._stage.select} {score.mean():.4f}'
        progress.show(step, text, epoch_done=epoch_done)
        done = step == total or bool(np.all(best.stopped))
        self._save_if_due(checkpoints, state, best, chain, step, done)
        if done:
          break
      progress.close()
      log.close()
    best = jax.tree.map(np.asarray, best)
    return best, self._hparams(best.epoch * self._steps_per_epoch)

  def _begin(self, checkpoints: Checkpoints) -> tuple[TrainState, selection.Best, str]:
    """State, best and batch hash to go on from: the last checkpoint, or the start."""
    seeds = jnp.asarray(self._context.run.seeds, jnp.uint32)
    state = self._programs.start(seeds)
    if self._start_experts:
      found = variables.join(state.variables, self._start_experts)
      params = found.pop('params')
      state = dataclasses.replace(state, params=params, collections=found)
    best = selection.start(state.variables, len(seeds), self._stage.maximize)
    chain = ''
    if restored := checkpoints.restore({'state': state, 'best': best}):
      items, meta = restored
      state, best, chain = items['state'], items['best'], meta['batch_hash']
      _LOG.info('Stage %s goes on from step %d.', self._stage.name, meta['step'])
    return self._context.parallel.put(state), best, chain

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

  def _hparams(self, steps: np.ndarray) -> dict[str, np.ndarray]:
    """What varies by step as it is at evaluation, for the step `[S]` of each seed."""
    values = jax.vmap(partial(hparams_at, self._programs.schedules))(jnp.asarray(steps))
    return jax.tree.map(np.asarray, self._stage.eval_hparams(values))

  def _train_record(self, step: int, metrics, chain: str) -> dict[str, Any]:
    """One line of the log for a call: means over its steps, one value per seed."""
    means = {name: value.mean(axis=1).tolist() for name, value in metrics.items()}
    epoch = step / self._steps_per_epoch
    return {
      'split': 'train',
      'step': step,
      'epoch': epoch,
      'batch_hash': chain,
      **means,
    }

  def _evaluate(self, state: TrainState, epoch: int, step: int):
    """The validation line of an epoch, and the score `[S]` that selects."""
    stage, seeds = self._stage, self._context.run.seeds
    hparams = self._hparams(np.full(len(seeds), step))
    sums, _ = self._validate(state.variables, hparams, state.memory)
    rows = []
    for s in range(len(seeds)):
      one = jax.tree.map(lambda x, s=s: x[s], sums)
      row = stage.task.scores(one['task'])
      row['objective'] = sum(
        float(hparams[weight_key(name)][s]) * float(mean.compute())
        for name, mean in one['terms'].items()
      )
      for path, total in one['usage'].items():
        row[f'usage/{path}'] = float(total / one['count'])
      rows.append(row)
    record = {name: [row[name] for row in rows] for name in rows[0]}
    self._warn_of_collapse(record)
    score = np.asarray(record[stage.select], np.float32)
    return {'split': 'valid', 'step': step, 'epoch': epoch, **record}, score

  def _warn_of_collapse(self, record: Mapping[str, Any]) -> None:
    paths = self._stage.costs.paths
    shares = {path: float(np.mean(record[f'usage/{path}'])) for path in paths}
    dead = {path for path, share in shares.items() if share < _COLLAPSE}
    if new := sorted(dead - self._warned):
      _LOG.warning(
        'Stage %s: the gate hardly ever chooses %s (mean shares %s). If that is not '
        'wanted, change loss.budget, set loss.balance or use holdout.',
        self._stage.name,
        new,
        {path: round(share, 3) for path, share in shares.items()},
      )
      self._warned |= dead

  def _save_if_due(self, checkpoints, state, best, chain, step, done) -> None:
    """Saves by the clock and when asked to end.

    Raises:
      Preempted: the process was asked to end, and the state is on disk.
    """
    stopping = self._context.stop.set and not done
    elapsed = time.monotonic() - self._saved_at
    if stopping or (not done and elapsed >= self._context.run.checkpoint_seconds):
      items = {'state': state, 'best': best}
      checkpoints.save(step, items, meta={'batch_hash': chain})
      self._saved_at = time.monotonic()
    if stopping:
      checkpoints.wait()
      raise Preempted(
        f'Asked to end: stage {self._stage.name} is saved at step {step}. The same '
        'command goes on from there.'
      )

  def _check_finite(self, state: TrainState) -> None:
    """Raises NonFiniteError if a seed has halted."""
    halted = np.asarray(state.halted)
    if not halted.any():
      return
    seed = int(np.argmax(halted))
    one = variables.for_seed(state, seed)
    rows = self._rows(int(one.step), 1)[seed, 0]
    batch = assemble(self._train.for_seed(seed), rows)
    # Built anew for one device: outside the compiled program no axis is bound.
    single = build.stage(self._context.config, self._context.dataset.spec)
    raise diagnose(
      build.find_stage(single, self._stage.name),
      one,
      batch,
      self._programs.schedules,
      self._train.ids,
    )


def _write_result(
  stage: build.Stage,
  splits: Mapping[str, Split],
  whole: Any,
  best: selection.Best,
  hparams: Mapping[str, np.ndarray],
  context: Context,
) -> None:
  """Predicts validation and test, scores them, and writes the stage's result."""
  folder, costs = context.folder(stage), stage.costs
  scores = {}
  for name in ('valid', 'test'):
    outputs = _predict(stage, splits[name], whole, hparams, context)
    predictions = from_outputs(
      outputs, splits[name], about={'stage': stage.name, 'split': name}
    )
    predictions.save(folder / f'predictions_{name}.npz')
    scores[name] = score_all(predictions, stage.task, costs.paths, costs.total)
  result = {
    'stage': stage.name,
    'task': type(stage.task).__name__.lower(),
    'origin': context.dataset.origin,
    'seeds': list(context.run.seeds),
    'select': stage.select,
    'best_epoch': best.epoch.tolist(),
    'hparams': {key: value.tolist() for key, value in hparams.items()},
    'parameters': costs.parameters,
    'macs': {'total': costs.total, 'paths': dict(costs.paths)},
    'splits': scores,
  }
  write_json(folder / 'result.json', result)
  score = scores['test']['interval'][stage.task.main_score]
  _LOG.info(
    'Stage %s: test %s %.4f, %.3g M MACs per example.',
    stage.name,
    stage.task.main_score,
    score['mean'],
    np.mean(scores['test']['macs']) / 1e6,
  )
