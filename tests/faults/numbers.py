"""Values that are not finite, put at random places of a small run.

A trial puts NaN or an infinity into one leaf, for one seed and at one step: into what
training carries (parameters, optimiser state, statistics of BatchNorm, memories of the
losses), into a gradient, or into an input or a label. A passing fault is there the
first time only; others come again whenever the step does. The fault comes from outside:
the train step, the objective and the feed are wrapped, and the wrapped step asks the
host for what to spoil, so that all trials share their compiled programs.

By policy, this must be so:

- `stop`: NonFiniteError at that very step, with the leaf or the example; the state is
  that of an undisturbed run before the step;
- `skip`: the same in the log, and the run ends with the state of one in which the
  update of that step is left out; where the state itself is at fault, NonFiniteError
  after so many steps in a row;
- `rollback`: the same in the log; after a passing fault the run ends bit by bit as an
  undisturbed one, and else with NonFiniteError the second time.
"""

import contextlib
import dataclasses
import functools
import io
import logging
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from jdyn import build
from jdyn.data.dataset import Dataset, Split
from jdyn.data.order import train_rows
from jdyn.data.pipeline import assemble
from jdyn.training import nonfinite, programs, stage, step
from jdyn.training.context import Context, FirstStep, StopFlag
from jdyn.training.feed import make_feed
from jdyn.training.guard import Diagnosis, NonFiniteError
from jdyn.training.parallel import Parallel
from jdyn.training.workdir import Lock
from tests import toys
from tests.faults.table import Row

STATE = {
  'parameter': 'params',
  'optimiser state': 'opt_state',
  'BatchNorm statistic': 'collections',
  'loss memory': 'memory',
}
"""Kinds of faults in what training carries, and where in the state they are."""

KINDS = (*STATE, 'gradient', 'input', 'label')

SIZE, BATCH, EPOCHS, SEEDS = 20, 8, 6, (3, 4)
STEPS = EPOCHS * -(-SIZE // BATCH)

_INPUTS = ('image', 'text')
_ENCODERS = {
  'image': dict(name='maxout', hidden=(4,), dropout=0.3),
  'text': toys.mlp(5, features=4),
}
_NOWHERE = -1


@dataclasses.dataclass(frozen=True)
class Fault:
  """A value that is not finite, and where it is put.

  Attributes:
    kind: one of `KINDS`.
    value: NaN or an infinity.
    passing: whether it is gone when training comes there again.
    leaf: number of the leaf among those of its kind.
    place: of the value, in the flat leaf or in the flat array of the example.
    seed: of the member; None for an input or label, which all members read.
    step: of that member, likewise.
    row: of the training split, for an input or label.
  """

  kind: str
  value: float
  passing: bool
  leaf: int
  place: int
  seed: int | None = None
  step: int | None = None
  row: int | None = None

  def steps(self) -> dict[int, list[int]]:
    """The steps at which it is met, by seed."""
    if self.seed is not None:
      return {self.seed: [self.step]}
    return {
      seed: np.flatnonzero((_rows(seed) == self.row).any(axis=1)).tolist()
      for seed in SEEDS
    }


def add_arguments(parser) -> None:
  """The size of the long run."""
  parser.add_argument(
    '--trials', type=int, default=20, help='per kind of fault and policy'
  )


def run(options) -> Iterator[Row]:
  """A row per kind of fault and policy."""
  rng, started = np.random.default_rng(options.seed), time.monotonic()
  for several, kinds in ((False, KINDS[:-1]), (True, KINDS[-1:])):
    with tempfile.TemporaryDirectory() as folder, Bench(Path(folder), several) as bench:
      for kind in kinds:
        for policy, passing in _cases(kind):
          yield _try_often(bench, kind, policy, passing, options.trials, rng)
          elapsed = time.monotonic() - started
          print(f'numbers: {kind}: {policy}: {elapsed:.0f} s', file=sys.stderr)


def _cases(kind: str) -> list[tuple[str, bool]]:
  """Policies, and whether the fault is passing."""
  cases = [('stop', False), ('skip', False), ('rollback', True)]
  return cases if kind in STATE else [*cases, ('rollback', False)]


def _try_often(bench, kind, policy, passing, trials, rng) -> Row:
  failures = []
  for _ in range(trials):
    fault = bench.draw(rng, kind, passing)
    options = {
      'feed': str(rng.choice(['device', 'host'])),
      'steps_per_call': int(rng.choice([1, 3])),
      # After every call, or never.
      'checkpoint_seconds': float(rng.choice([0.0, 1e9])),
    }
    if problem := bench.try_out(fault, policy, **options):
      failures.append(problem)
      text = f'numbers: LOST: {policy}, {options}: {fault}: {problem}'
      print(text, file=sys.stderr)
  what, lost = f'{kind}, passing' if passing else kind, len(failures)
  first = failures[0] if failures else ''
  return Row('numbers', f'{what}: {policy}', trials, trials - lost, lost, first)


class Bench(contextlib.ExitStack):
  """A small run of two seeds, to be repeated with faults."""

  def __init__(self, folder: Path, several: bool = False, **options):
    """Trains nothing yet.

    Args:
      folder: for the workdirs.
      several: whether an example has several labels, which are floating then, or one
        class, for which there is a loss with a memory.
      **options: keys of the config, with `__` for their dots.
    """
    super().__init__()
    self._folder, self._count = folder, 0
    self._config = (_multilabel if several else _multiclass)(**options)
    task = 'multilabel' if several else 'multiclass'
    modalities = {name: toys.SPEC.modalities[name] for name in _INPUTS}
    self._spec = dataclasses.replace(toys.SPEC, task=task, modalities=modalities)
    self._parallel = Parallel(self._config.parallel)
    self._stage = build.stage(self._config, self._spec, self._parallel.axis_name)
    self._alone = build.stage(self._config, self._spec)
    sizes = {'train': SIZE, 'valid': BATCH, 'test': BATCH}
    self._splits = {
      name: _split(size, seed, several)
      for seed, (name, size) in enumerate(sizes.items())
    }
    self._compiled: dict[str, Any] = {}
    self._fault: Fault | None = None
    self._passes, self._last = 0, None

  def __enter__(self) -> 'Bench':
    """Wraps what the faults come through."""
    super().__enter__()
    wrapped = (
      (programs, 'train_step', functools.partial(_faulty_step, self._where)),
      (step, 'objective', functools.partial(_faulty_objective, self._where)),
      (stage, 'make_feed', self._make_feed),
      (stage, 'TrainPrograms', self._make_programs),
      (stage, 'GuardedCalls', functools.partial(_Calls, self)),
      (stage, 'Evaluator', self._make_evaluator),
      (stage, 'write_results', lambda *args: None),
      (nonfinite, 'Diagnosis', self._make_diagnosis),
    )
    for module, name, wrapper in wrapped:
      self.enter_context(mock.patch.object(module, name, wrapper))
    return self

  def draw(self, rng: np.random.Generator, kind: str, passing: bool) -> Fault:
    """A fault of a kind, at a random place."""
    train = self._splits['train']
    leaves = {
      'input': [train.inputs[name][0] for name in _INPUTS],
      'label': [train.label[0]],
    }
    if kind not in leaves:
      leaves[kind] = [leaf for _, leaf in self._leaves(kind)]
    leaf = int(rng.integers(len(leaves[kind])))
    fault = Fault(
      kind,
      value=float(rng.choice([np.nan, np.inf, -np.inf])),
      passing=passing,
      leaf=leaf,
      place=int(rng.integers(leaves[kind][leaf].size)),
    )
    if kind in ('input', 'label'):
      return dataclasses.replace(fault, row=int(rng.integers(SIZE)))
    # Early enough to be left out so often that it is given up.
    number = int(rng.integers(STEPS - nonfinite.MAX_SKIPS - 1))
    return dataclasses.replace(fault, seed=int(rng.choice(SEEDS)), step=number)

  def try_out(self, fault: Fault, policy: str, **options) -> str:
    """What went wrong in a run with a fault; empty if nothing did.

    Args:
      fault: to be put in.
      policy: `nonfinite` of the config.
      **options: other keys of it, among them `feed` and `steps_per_call`.
    """
    outcome = self._train(fault, nonfinite=policy, **options)
    check = {'stop': self._stopped, 'skip': self._skipped, 'rollback': self._repeated}
    try:
      check[policy](fault, outcome)
    except AssertionError as problem:
      at = traceback.extract_tb(problem.__traceback__)
      (line,) = [frame.line for frame in at if frame.name == check[policy].__name__]
      return f'{line}: {problem}'
    return ''

  def _stopped(self, fault: Fault, outcome: 'Outcome') -> None:
    seed, number = self._named(fault, outcome.error)
    _require('The state before the step is kept' in outcome.error, outcome)
    kept = jax.tree.map(lambda x: x[SEEDS.index(seed)], outcome.state)
    _require(kept.halted and kept.step == number, 'the member is at another step')
    self._assert_close(kept, self._states(seed)[number], fault)

  def _skipped(self, fault: Fault, outcome: 'Outcome') -> None:
    lines = [line for line in outcome.lines if 'is left out' in line]
    found = [self._named(fault, line) for line in lines]
    if fault.kind in STATE:
      wanted = [(fault.seed, fault.step + k) for k in range(nonfinite.MAX_SKIPS)]
      _require(found == wanted, outcome)
      _require(f'{nonfinite.MAX_SKIPS} steps before' in outcome.error, outcome)
      return
    _require(not outcome.error, outcome)
    met = fault.steps()
    wanted = [(seed, number) for seed, steps in met.items() for number in steps]
    _require(sorted(found) == sorted(wanted), outcome)
    lines = toys.read_lines(outcome.log)
    counts = [line['skipped'] for line in lines if line['split'] == 'train']
    _require(
      np.sum(counts, axis=0).tolist() == [len(met.get(seed, ())) for seed in SEEDS],
      f'logged as left out: {counts}',
    )
    for member, seed in enumerate(SEEDS):
      state = jax.tree.map(lambda x, member=member: x[member], outcome.state)
      _require(not state.halted and state.step == STEPS, 'the member did not go on')
      self._assert_close(state, self._states(seed, tuple(met.get(seed, ())))[-1])

  def _repeated(self, fault: Fault, outcome: 'Outcome') -> None:
    (line,) = [line for line in outcome.lines if 'Going back' in line] or ['']
    first = self._named(fault, line)
    if not fault.passing:
      _require(self._named(fault, outcome.error) == first, outcome)
      _require('after going back to the last checkpoint, too' in outcome.error, outcome)
      _require("nonfinite='skip' leaves such steps out" in outcome.error, outcome)
      return
    _require(not outcome.error and outcome.passes == 2, outcome)
    calm = self._undisturbed(outcome.options['feed'], outcome.options['steps_per_call'])
    _require(outcome.log.read_bytes() == calm.log.read_bytes(), 'other metrics')
    jax.tree.map(np.testing.assert_array_equal, outcome.state, calm.state)

  def _named(self, fault: Fault, text: str) -> tuple[int, int]:
    """Seed and step of a message, which must name them, the leaf and the example."""
    pattern = r"stage 'main', seed (\d+), step (\d+): .*bad leaf (.*), examples (.*?)\."
    found = re.search(pattern, text)
    _require(found, f'no step is named: {text!r}')
    seed, number, leaf, examples = int(found[1]), int(found[2]), found[3], found[4]
    if fault.kind in ('input', 'label'):
      _require(number in fault.steps()[seed], text)
      wanted = str([str(self._splits['train'].ids[fault.row])])
    else:
      # What is in the state stays there.
      late = number > fault.step and fault.kind in STATE
      _require(seed == fault.seed and (late or number == fault.step), text)
      wanted = 'all finite'
      path, _ = self._leaves(fault.kind)[fault.leaf]
      _require(leaf == path, text)
    _require(examples == wanted, text)
    return seed, number

  def _assert_close(self, got, want, fault: Fault | None = None) -> None:
    """Equal to rounding, but for what was put into the state itself."""
    for kind, part in STATE.items():
      pairs = zip(
        _named_floats(part, getattr(got, part)),
        _named_floats(part, getattr(want, part)),
        strict=True,
      )
      for number, ((path, a), (_, b)) in enumerate(pairs):
        a, b = np.ravel(a), np.array(b).ravel()
        if fault is not None and (kind, number) == (fault.kind, fault.leaf):
          b[fault.place] = fault.value
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=path)

  def _leaves(self, kind: str) -> list[tuple[str, np.ndarray]]:
    """What a fault of a kind may spoil of the state or gradient, by its name."""
    state, part = self._states(SEEDS[0])[0], STATE.get(kind, 'params')
    return _named_floats(STATE.get(kind, kind), getattr(state, part))

  @functools.cache  # noqa: B019
  def _states(self, seed: int, left_out: Sequence[int] = ()) -> list[Any]:
    """States before each step and after the last one, with a loop of its own."""
    train, take = self._splits['train'], self._step()
    state, states = take.start(seed), []
    for number, rows in enumerate(_rows(seed)):
      states.append(state)
      if number in left_out:
        state = dataclasses.replace(state, step=state.step + 1)
      else:
        state = take.update(state, assemble(train, rows))
    return jax.device_get([*states, state])

  @functools.cache  # noqa: B019
  def _undisturbed(self, feed: str, steps_per_call: int) -> 'Outcome':
    outcome = self._train(
      None, feed=feed, steps_per_call=steps_per_call, nonfinite='rollback'
    )
    _require(not outcome.error and outcome.passes == 1, outcome)
    return outcome

  @functools.cache  # noqa: B019
  def _step(self):
    """One update of one seed, and the state that it starts with."""
    made, per_epoch = self._alone, STEPS // EPOCHS
    schedules = made.make_schedules(per_epoch)
    options = dict(
      model=made.trained, tx=made.make_optimizer(per_epoch), terms=made.terms
    )
    start = functools.partial(
      programs.init_state,
      inputs=assemble(self._splits['train'], np.arange(1))['inputs'],
      hparams=programs.hparams_at(schedules, jnp.int32(0)),
      num_examples=SIZE,
      **options,
    )
    update = functools.partial(step.propose, schedules=schedules, **options)
    return SimpleNamespace(
      start=lambda seed: jax.jit(start)(jnp.uint32(seed)),
      update=jax.jit(lambda state, batch: update(state, batch).updated),
    )

  def _train(self, fault: Fault | None, **options) -> 'Outcome':
    """Trains with a fault."""
    self._fault, self._passes, self._last = fault, 0, None
    self._count += 1
    workdir = self._folder / f'{self._count}'
    config = self._config.copy_and_resolve_references()
    config.update(options)
    stop, lock, error = StopFlag(), Lock(workdir), ''
    context = Context(
      config,
      build.run(config),
      Dataset(self._spec, self._splits, 'bundled', {}),
      self._parallel,
      workdir,
      stop,
      FirstStep(0.0),
      lock,
    )
    with _lines() as lines:
      try:
        stage.train_stage(self._stage, self._splits, {}, context)
      except NonFiniteError as found:
        error = str(found)
      finally:
        stop.restore()
        lock.release()
        self._fault = None
    log = workdir / 'stages' / 'main' / 'metrics.jsonl'
    return Outcome(options, error, lines, log, self._last, self._passes)

  # What is wrapped.

  @property
  def active(self) -> bool:
    """Whether the fault is there now."""
    fault = self._fault
    return fault is not None and (self._passes == 1 or not fault.passing)

  def _where(self, seed, number) -> tuple[np.ndarray, ...]:
    """Asked by the compiled step: kind, leaf, place and value of what to spoil."""
    hit, fault = np.zeros(np.shape(seed), bool), self._fault
    if self.active and fault.seed is not None:
      hit = np.asarray(seed) == fault.seed
      hit &= np.asarray(number) == fault.step
    what, value = (0, 0, 0), 0.0
    if hit.any():
      what = (KINDS.index(fault.kind), fault.leaf, fault.place)
      value = fault.value
    places = [np.where(hit, index, _NOWHERE).astype(np.int32) for index in what]
    return (*places, np.full(hit.shape, value, np.float32))

  def _make_feed(self, split: Split, *args, **options) -> '_Feed':
    fault, spoiled = self._fault, split
    if fault is not None and fault.kind in ('input', 'label'):
      spoiled = _spoil(split, fault)
    healthy, faulty = (make_feed(s, *args, **options) for s in (split, spoiled))
    return _Feed(self, healthy, faulty)

  def _make_programs(self, made, split, feed, *args) -> '_Programs':
    """Those of the first trial with such a feed."""
    key = type(feed.healthy).__name__
    if key not in self._compiled:
      found = programs.TrainPrograms(made, split, feed.healthy, *args)
      self._compiled[key] = found
    return _Programs(self, self._compiled[key])

  def _make_evaluator(self, *args, **options) -> programs.Evaluator:
    if 'evaluator' not in self._compiled:
      self._compiled['evaluator'] = programs.Evaluator(*args, **options)
    return self._compiled['evaluator']

  def _make_diagnosis(self, *args) -> Diagnosis:
    if 'diagnosis' not in self._compiled:
      self._compiled['diagnosis'] = Diagnosis(*args)
    return self._compiled['diagnosis']

  def begin(self) -> None:
    """Training begins, or has gone back."""
    self._passes += 1

  def keep(self, state: Any) -> None:
    """The state after a call."""
    self._last = jax.device_get(state)


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What became of a run.

  Attributes:
    options: of the run.
    error: the message of its NonFiniteError; empty if there was none.
    lines: what it logged.
    log: its metrics.
    state: after the last compiled call, `[M, ...]`.
    passes: how often training began.
  """

  options: Mapping[str, Any]
  error: str
  lines: Sequence[str]
  log: Path
  state: Any
  passes: int

  def __str__(self) -> str:
    """For the report of what went wrong."""
    return f'error {self.error!r}, logged {list(self.lines)}, {self.passes} passes'


class _Feed:
  """A feed that is faulty for a while."""

  def __init__(self, bench: Bench, healthy, faulty):
    self._bench, self.healthy, self._faulty = bench, healthy, faulty

  @property
  def _now(self):
    return self._faulty if self._bench.active else self.healthy

  @property
  def data(self):
    return self._now.data

  def calls(self, calls):
    return self._now.calls(calls)

  def fetch(self, data, x):
    return self.healthy.fetch(data, x)


class _Programs:
  """Programs that tell when training begins, and what a call returned."""

  def __init__(self, bench: Bench, made: programs.TrainPrograms):
    self._bench, self._made, self.schedules = bench, made, made.schedules

  def start(self, seeds):
    self._bench.begin()
    return self._made.start(seeds)

  def call(self, *args):
    state, metrics = self._made.call(*args)
    self._bench.keep(state)
    return state, metrics


class _Calls(nonfinite.GuardedCalls):
  """Calls that tell what state they leave, once the policy was applied."""

  def __init__(self, bench: Bench, *args):
    super().__init__(*args)
    self._bench = bench

  def __call__(self, *args):
    state, metrics = super().__call__(*args)
    self._bench.keep(state)
    return state, metrics


_TRAIN_STEP, _OBJECTIVE = step.train_step, step.objective


def _ask(where, state):
  """The answer of the host: kind, leaf, place and value."""
  number = jax.ShapeDtypeStruct((), jnp.int32)
  answer = (number, number, number, jax.ShapeDtypeStruct((), jnp.float32))
  return jax.pure_callback(
    where, answer, state.seed, state.step, vmap_method='broadcast_all'
  )


def _faulty_step(where, state, batch, **options):
  """The train step, on a state that may be spoiled."""
  kind, leaf, place, value = _ask(where, state)
  parts = {}
  for name, part in STATE.items():
    here = jnp.where(kind == KINDS.index(name), leaf, _NOWHERE)
    parts[part] = _put(getattr(state, part), here, place, value)
  return _TRAIN_STEP(dataclasses.replace(state, **parts), batch, **options)


def _faulty_objective(where, params, state, batch, **options):
  """The objective, with gradients that may be spoiled."""
  kind, leaf, place, value = _ask(where, state)
  here = jnp.where(kind == KINDS.index('gradient'), leaf, _NOWHERE)
  nothing = jax.tree.map(jnp.zeros_like, params)
  spoil = _put(nothing, here, place, value)
  return _OBJECTIVE(jax.tree.map(_tap, params, spoil), state, batch, **options)


@jax.custom_vjp
def _tap(x, spoil):
  """`x`, to whose gradient `spoil` is added."""
  del spoil
  return x


_tap.defvjp(lambda x, spoil: (x, spoil), lambda spoil, g: (g + spoil, spoil * 0))


def _put(tree, number, place, value):
  """Writes a value to one place of one of the floating leaves of a tree."""
  leaves, structure = jax.tree.flatten(tree)
  floats = [k for k, leaf in enumerate(leaves) if _is_float(leaf)]
  for count, k in enumerate(floats):
    at = jnp.arange(leaves[k].size).reshape(leaves[k].shape) == place
    leaves[k] = jnp.where(at & (number == count), value, leaves[k])
  return jax.tree.unflatten(structure, leaves)


def _spoil(split: Split, fault: Fault) -> Split:
  """A copy of a split with one bad value."""
  inputs = {name: np.array(split.inputs[name]) for name in _INPUTS}
  label = np.array(split.label)
  array = label if fault.kind == 'label' else inputs[_INPUTS[fault.leaf]]
  array[fault.row].reshape(-1)[fault.place] = fault.value
  return dataclasses.replace(split, inputs=inputs, label=label)


def _named_floats(name: str, tree: Any) -> list[tuple[str, Any]]:
  return [
    (name + jax.tree_util.keystr(path), leaf)
    for path, leaf in jax.tree.leaves_with_path(tree)
    if _is_float(leaf)
  ]


def _is_float(leaf: Any) -> bool:
  return jnp.issubdtype(leaf.dtype, jnp.floating)


def _rows(seed: int) -> np.ndarray:
  return train_rows(seed, SIZE, BATCH, 0, STEPS)


def _split(size: int, seed: int, several: bool) -> Split:
  """Examples of the toy data, if `several` with one label per class."""
  split = toys.split(size, seed).only(_INPUTS)
  if not several:
    return split
  return dataclasses.replace(
    split, label=np.eye(toys.CLASSES, dtype=np.float32)[split.label]
  )


def _multiclass(**options):
  """BatchNorm, dropout and a loss with a memory."""
  return _multilabel(model__fusion__name='energy_weighted', loss__rank=1.0, **options)


def _multilabel(**options):
  """BatchNorm and dropout."""
  experts = {name: toys.unimodal(name, encoder) for name, encoder in _ENCODERS.items()}
  model = dict(name='decision_fusion', experts=experts, fusion=dict(name='average'))
  return toys.config(
    model,
    epochs=EPOCHS,
    batch_size=BATCH,
    num_seeds=len(SEEDS),
    seed=SEEDS[0],
    patience=-1,
    loss__per_expert=1.0,
    optimizer__learning_rate__init_value=0.01,
    **options,
  )


@contextlib.contextmanager
def _lines() -> Iterator[list[str]]:
  """What jdyn logs meanwhile, and nothing of it on stderr."""
  logger, lines = logging.getLogger('jdyn'), []
  handler = logging.Handler()
  handler.emit = lambda record: lines.append(record.getMessage())
  before = logger.handlers, logger.propagate, logger.level
  logger.handlers, logger.propagate = [handler], False
  logger.setLevel(logging.INFO)
  try:
    with contextlib.redirect_stderr(io.StringIO()):  # The line that shows progress.
      yield lines
  finally:
    logger.handlers, logger.propagate = before[:2]
    logger.setLevel(before[2])


def _require(condition: Any, what: Any) -> None:
  if not condition:
    raise AssertionError(str(what))
