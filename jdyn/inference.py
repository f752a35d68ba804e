"""Trained runs: load one, predict with it, evaluate it on a split."""

import dataclasses
import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.export import Exported, export
from ml_collections import ConfigDict

from jdyn import build
from jdyn.cost import count_macs, path_macs
from jdyn.data.corruptions import Noise, Reference, corrupt, measure, touched
from jdyn.data.dataset import DataError, Dataset, DataSpec, Split
from jdyn.data.load import load as load_data
from jdyn.data.rows import FileRows, SplitRows
from jdyn.evaluators.attendance import by_presence, check_judges, judgeable, judged
from jdyn.evaluators.budget import (
  Dial,
  at_budget,
  calibrate,
  check_budget,
  gate_logits,
  parse_budget,
  spend,
)
from jdyn.evaluators.conditional import conditional, path_costs
from jdyn.evaluators.latency import batch_size as size_of
from jdyn.evaluators.latency import time_batch, time_budgets
from jdyn.evaluators.predictions import Predictions, from_outputs, path_prices
from jdyn.evaluators.run_files import check_stage, read_json, read_predictions
from jdyn.evaluators.stopwatch import Stopwatch
from jdyn.models.input_names import input_names
from jdyn.ops.dispatcher import Dispatcher, Reader, input_shape
from jdyn.ops.presence import present_key
from jdyn.ops.processor import jit_for_inference
from jdyn.ops.timing import interleave
from jdyn.training import variables
from jdyn.training.parallel import Parallel
from jdyn.training.predict import predict, read_hparams
from jdyn.training.workdir import check_hashes, naming_changes, read_spec
from jdyn.typing import Modalities, Outputs

BATCHES = 8
"""Batches that are streamed to learn how long a budget takes."""


class TrainedRun:
  """A finished run.

  Attributes:
    workdir: its folder.
    config: what it was told.
    stage: whose model predicts; the main one, or an expert's.
    seeds: of the run; predictions of the first are returned by `predict`.
  """

  def __init__(self, workdir: str | Path, stage: str = build.MAIN):
    """Reads the config and the verified variables of one stage.

    Raises:
      WorkdirError: the folder holds no run.
      CheckpointError: the stage is not finished, or its variables are damaged.
      DataError: another file of the run is damaged.
    """
    self.workdir = Path(workdir)
    self._spec = read_spec(self.workdir)
    self.config = ConfigDict(read_json(self.workdir / 'config.json'))
    self.seeds = build.run(self.config).seeds
    self._parallel = Parallel('jit')
    self.stage = build.find_stage(build.stage(self.config, self._spec), stage)
    self._folder = self.workdir / 'stages' / stage
    self._variables = variables.load_best(
      self._folder, self.stage, self._spec, len(self.seeds)
    )
    check_stage(self._folder)
    self._hparams = read_hparams(self._folder)
    self._models: dict[int, tuple[Any, Any]] = {}
    self._dials: dict[int, Dial] = {}
    self._times: dict[Any, tuple[np.ndarray, np.ndarray]] = {}
    self._masked: dict[tuple[tuple[str, ...], ...], Dispatcher] = {}
    self._dispatcher = None
    self._measured: Any = None
    # Soft weights need every path.
    if self.stage.costs.paths and np.all(self._hparams['gate_hard']):
      valid = read_predictions(self._folder, 'valid')
      self._prices = path_prices(valid, self.stage.costs.paths)
      self._costs = path_costs(self.stage.model, self._prices)
      self._dispatcher = conditional(self.stage.model, self._costs)
    self._apply = jit_for_inference(self._whole)

  @property
  def conditional(self) -> bool:
    """Whether `predict` runs one path per example, which a gate chooses."""
    return self._dispatcher is not None

  def predict(
    self,
    inputs: Modalities | Reader,
    policy: str = 'auto',
    budget: str | float | None = None,
    seed: int | None = None,
  ) -> Outputs:
    """Outputs of a batch, as NumPy arrays; of a gated model only the chosen path runs.

    Args:
      inputs: by modality, arrays `[B, ...]` as the dataset's batches hold them, or
        lists of `B` paths of `.npy` files with one example each. Files of a modality
        that only some paths read are opened only for the examples that need them.
        Where examples lack a modality, `present/<modality>`, `bool[B]`, says so; one
        that all lack may be left out. What is given for them is not looked at, and a
        model without a gate does not compute what reads it alone.
      policy: how the chosen paths are run, one of `jdyn.ops.dispatcher.POLICIES`.
        `auto` measures the others at the first batch of each shape; `dense` computes
        every path, and is the only one for a model without a gate.
      budget: what an example costs on average, between the cheapest and the dearest
        path: MACs ('12M', 5e6) or milliseconds ('0.3ms', on this machine, in batches
        of this size); None leaves the choice to the gate. The mean over the examples
        of this call is held to it, within 5 % from about a hundred examples on; where
        batches are smaller, use `stream`. MACs of equilibrium models are
        those that they take on average on the validation split.
      seed: one of `seeds`; the first if None.

    Returns:
      All outputs of a model without a gate: its `aux` says of an equilibrium model
      what its solvers did (`solver/fused/converged`, see
      `jdyn.fusions.equilibrium`). Where some examples lack a modality, these are
      `logits` and `weights` alone, but with policy `dense`.
      For a gated model `logits`, `weights` (1 for the path that was chosen),
      `aux['gate_logits']`, and in `unimodal` the logits of the experts that the gate
      reads, which are computed for all examples. What else its paths put into `aux`,
      as whether their solvers converged, is dropped; `evaluate` computes every path
      and keeps it.

    Raises:
      ValueError: a modality is missing, unknown or of another shape, the policy does
        not fit the model, the budget is out of reach, or the seed is none of the run's.
      DataError: a file is missing, damaged or of another shape.
    """
    (outputs,) = self.stream([inputs], policy, budget, seed)
    return outputs

  def stream(
    self,
    batches: Iterable[Modalities | Reader],
    policy: str = 'auto',
    budget: str | float | None = None,
    seed: int | None = None,
  ) -> Iterator[Outputs]:
    """Outputs of batch after batch; a budget is held over all of them.

    Args:
      batches: each as `predict` takes it.
      policy: as there.
      budget: as there; milliseconds are looked up in times of batches like the first,
        and corrected by what the batches before really took. The time between two
        batches, in which the caller has the outputs, does not count.
      seed: as there.

    Raises:
      ValueError, DataError: as `predict`.
    """
    model, extra, watch = self._model(seed), None, None
    for inputs in batches:
      inputs = self._opened(inputs)
      if self._dispatcher is None:
        if budget is not None or policy not in ('auto', 'dense'):
          self._check_conditional()
        yield self._judge(model, inputs, policy)
        continue
      if budget is not None and extra is None:
        extra = self._dial(seed), self.macs(budget, [inputs], policy, seed)
        watch = self._stopwatch(budget, inputs, policy)
      start = time.perf_counter()
      dispatcher = self._dispatcher_of(inputs)
      chosen, shared, logits = dispatcher(model, inputs, extra, policy)
      outputs = self._outputs(chosen, shared, logits)
      if watch is not None:
        watch.book(time.perf_counter() - start, len(outputs.logits))
      yield outputs
      if extra is not None:
        dial, macs = extra
        dial = spend(dial, shared['gate_logits'], self._costs, macs)[1]
        extra = dial, macs if watch is None else watch.macs

  def macs(
    self,
    budget: str | float,
    batches: Sequence[Modalities | Reader],
    policy: str = 'auto',
    seed: int | None = None,
  ) -> float:
    """A budget per example as multiply-accumulates.

    Args:
      budget: as `predict` takes it; milliseconds are looked up in the times of
        streams at several budgets in MACs, which are measured once per shape and
        policy.
      batches: to be streamed, again and again, where times are needed. Several
        different ones tell more: how long a batch takes depends on its mix of paths.
      policy: that will run it.
      seed: whose variables are used.

    Raises:
      ValueError: the budget is out of reach.
    """
    self._check_conditional()
    budget, costs = parse_budget(budget), self._prices
    if budget.unit == 'macs':
      check_budget(budget, costs)
      return budget.value
    batches = [self._opened(inputs) for inputs in batches]
    key = policy, input_shape(batches[0])
    if key not in self._times:

      def run(count, budget):
        stream = itertools.islice(itertools.cycle(batches), count)
        deque(self.stream(stream, policy, budget, seed), maxlen=0)

      self._times[key] = time_budgets(run, self._costs, size_of(batches[0]))
    macs, seconds = self._times[key]
    ms = 1e3 * seconds
    if not ms[0] <= budget.value <= ms[-1] or ms[0] == ms[-1]:
      raise ValueError(
        f'budget={budget.value:g} ms per example cannot be met: with policy '
        f'{policy!r}, in batches of this size, an example takes {ms[0]:.4g} to '
        f'{ms[-1]:.4g} ms on this machine. Give MACs, or another policy or batch size.'
      )
    return float(np.interp(budget.value, ms, macs))

  def _stopwatch(
    self, budget: str | float, inputs: Modalities | Reader, policy: str
  ) -> Stopwatch | None:
    """For a budget in milliseconds whose times `macs` has measured."""
    budget = parse_budget(budget)
    if budget.unit == 'macs':
      return None
    table = self._times[policy, input_shape(inputs)]
    return Stopwatch(budget.value / 1e3, *table)

  def seconds(
    self,
    split: Split,
    batch_size: int,
    policies: Sequence[str] = ('auto',),
    budget: str | float | None = None,
    seed: int | None = None,
  ) -> dict[str, float]:
    """Measured seconds per example: the full batches of a split, one after another.

    Args:
      split: its rows are read before the clock starts.
      batch_size: of every call.
      policies: as `predict` takes one; they take turns.
      budget: as there; milliseconds are those of the first policy, and the others
        execute the MACs that these are.
      seed: as there.

    Raises:
      ValueError: as `predict`, or the split does not fill one batch.
    """
    batches, macs = list(self.batches(split, batch_size)), None
    if budget is not None:
      macs = self.macs(budget, batches[:BATCHES], policies[0], seed)

    def call(policy):
      asked = budget if policy == policies[0] else macs
      return lambda: deque(self.stream(batches, policy, asked, seed), maxlen=0)

    times = interleave({policy: call(policy) for policy in policies}, rounds=9)
    examples = len(batches) * batch_size
    return {name: float(np.median(found)) / examples for name, found in times.items()}

  def batches(self, split: Split, batch_size: int) -> Iterator[Modalities]:
    """The full batches of a split, in its order, on the device.

    Modalities that the split lacks are not among the inputs, nor are their masks.

    Raises:
      ValueError: the split does not fill one batch.
    """
    if not 1 <= batch_size <= len(split):
      raise ValueError(f'batch_size={batch_size}; the split has {len(split)} examples.')
    rows = np.arange(len(split) // batch_size * batch_size)
    names = [name for name in input_names(self.stage.model) if name in split.inputs]
    masks = [key for key in map(present_key, names) if key in split.inputs]
    for part in rows.reshape(-1, batch_size):
      batch = SplitRows(split, part).read(names)
      yield jax.device_put({name: batch[name] for name in (*names, *masks)})

  def fastest(self, inputs: Modalities, seed: int | None = None) -> str:
    """The policy that `auto` picks for batches like this one, measured now."""
    if self._dispatcher is None:
      return 'dense'
    inputs = self._opened(inputs)
    return self._dispatcher_of(inputs).measure(self._model(seed), inputs, None).policy

  def time(
    self, batch_size: int, seed: int | None = None, rounds: int = 15
  ) -> dict[str, Any]:
    """Milliseconds per example, by path and as the gate would send a batch.

    Inputs are random: times do not depend on them, but for those of equilibrium
    models, whose solvers may take more or fewer steps than on data. The shares of the
    paths are those of the validation split. See `jdyn.evaluators.latency.time_batch`.

    Raises:
      ValueError: the model has no paths, or the seed is none of the run's.
    """
    self._check_conditional()
    position, rng = self._position(seed), np.random.default_rng(0)
    valid = read_predictions(self._folder, 'valid')

    def like(x):
      if np.issubdtype(x.dtype, np.integer):  # Of a sequence: its full length.
        return np.broadcast_to(x, (batch_size, *x.shape[1:]))
      return rng.normal(size=(batch_size, *x.shape[1:])).astype(np.float32)

    example = build.example_inputs(self._spec)
    names = input_names(self.stage.model)
    return time_batch(
      self._dispatcher,
      self._model(seed),
      jax.device_put(jax.tree.map(like, {name: example[name] for name in names})),
      self.stage.costs.paths,
      {path: valid.weights[path][position].mean() for path in self.stage.costs.paths},
      self.stage.costs.total,
      rounds,
    )

  def export(
    self,
    batch_size: int = 1,
    budget: str | float | None = None,
    seed: int | None = None,
    platforms: Sequence[str] | None = None,
  ) -> Exported:
    """The model as one StableHLO program that needs neither this library nor the run.

    It maps inputs `{modality: [batch_size, ...]}` to `{'logits', 'path'}`, `path`
    being the number of the chosen path in `stage.model.paths` (left out for a model
    without a gate). The chosen path alone runs there too: a branch for one example, a
    ladder of sub-batches for more. Variables are constants of the program. What the
    solvers of equilibrium models did is not among the outputs.

    `export(...).serialize()` gives bytes for a file; `jax.export.deserialize(bytes)
    .call(inputs)` runs them.

    Args:
      batch_size: of every call.
      budget: as `predict` takes it, in MACs; held within one call, so that a program
        for one example has the thresholds of the validation split alone.
      seed: whose variables it gets; the first if None.
      platforms: 'cpu', 'cuda', 'tpu'; the one at hand if None.

    Raises:
      ValueError: the budget is out of reach or not in MACs, or the seed is none of the
        run's.
    """
    if batch_size < 1:
      raise ValueError(f'export: batch_size={batch_size} must be at least 1.')
    model, extra = self._model(seed), None
    if budget is not None:
      self._check_conditional()
      budget = parse_budget(budget)
      if budget.unit != 'macs':
        raise ValueError(
          'export: a program runs on machines that were not measured, so its budget '
          'must be in MACs.'
        )
      check_budget(budget, self._prices)
      extra = self._dial(seed), budget.value

    def run(inputs):
      if self._dispatcher is None:
        return {'logits': self._whole(*model, inputs).logits}
      program = self._dispatcher.program('switch' if batch_size == 1 else 'ladder')
      chosen, _, logits = program(model, inputs, extra)
      return {'logits': logits, 'path': chosen}

    example = build.example_inputs(self._spec)
    specs = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype),
      {name: example[name] for name in input_names(self.stage.model)},
    )
    return export(jax.jit(run), platforms=platforms)(specs)

  def dataset(self, root: str = '') -> Dataset:
    """The run's dataset, from `root` or where it was trained from.

    Raises:
      DataError: files are missing or damaged, or of another task or other modalities
        than the run's.
      WorkdirError: no other `root` is given, and the files there are others now.
    """
    source, cache = build.source(self.config), self.workdir / 'stand_in'
    if root:
      found = load_data(source, root, cache)
      _check_fit(found.spec, self._spec, root)
      return found
    root = self.config.data.root
    with naming_changes(self.workdir, root):
      found = load_data(source, root, cache)
    check_hashes(self.workdir, found.hashes)
    return found

  def examples(
    self, dataset: Dataset, split: str = 'test', noise: Noise | None = None
  ) -> Split:
    """A split, corrupted or not.

    Args:
      dataset: from `dataset()`.
      split: train, valid or test.
      noise: what to do to its inputs; nothing if None.

    Raises:
      ValueError: unknown split, corruption or modality, or a level out of range.
    """
    examples = _find_split(dataset, split)
    if noise is None:
      return examples
    return corrupt(examples, noise, self._references(dataset, noise))

  def judged(self, split: Split, present: Sequence[str] | None = None) -> Split:
    """The examples that the model can judge by what they have: what is evaluated.

    Args:
      split: of the dataset, corrupted or not.
      present: the modalities that its examples have at most; None for all.

    Raises:
      ValueError: unknown modality, or the model can judge none of the examples.
    """
    if present is not None:
      self._check_present(present)
      split = split.only(present)
    if not judgeable(self.stage.model, split).any():
      given = sorted(set(split.inputs) & set(self._spec.modalities))
      raise ValueError(
        f'present/<modality> of the data leaves none of the {len(split)} examples with '
        f'enough of {given} for the model of stage {self.stage.name!r}. Let more '
        'modalities be present, or take another split or stage.'
      )
    return judged(self.stage.model, split)

  def touched(
    self, dataset: Dataset, split: str, noise: Noise
  ) -> dict[str, np.ndarray]:
    """`bool[N]` by modality: which examples `examples` returns changed in it.

    Raises:
      ValueError: as `examples`.
    """
    examples = _find_split(dataset, split)
    return touched(examples, noise, self._references(dataset, noise))

  def evaluate(
    self,
    dataset: Dataset,
    split: str = 'test',
    noise: Noise | None = None,
    budget: str | float | None = None,
    present: Sequence[str] | None = None,
  ) -> Predictions:
    """Predictions of all seeds on a split, corrupted or not.

    Examples that lack what the model needs are left out; `about` says how many.

    Args:
      dataset: from `dataset()`.
      split: as `examples` takes it.
      noise: as there; it is noted in `about`.
      budget: MACs per example, as '5M' or 5e6; None leaves the choice to the gate.
      present: the modalities that the examples have at most; None for all.

    Raises:
      ValueError: as `examples`; or the budget is not in MACs, out of reach, or the
        model has nothing to choose, or cannot judge without the other modalities, or
        no example is left.
    """
    if budget is not None:
      self._check_conditional()
      budget = parse_budget(budget)
      if budget.unit != 'macs':
        raise ValueError(
          f'budget={budget.value:g} ms: a split is evaluated at MACs per example; '
          '`TrainedRun.macs` tells how many these are.'
        )
      check_budget(budget, self._prices)
    given = self.examples(dataset, split, noise)
    examples = self.judged(given, present)
    about = {'stage': self.stage.name, 'split': split, 'origin': dataset.origin}
    if present is not None:
      about |= {'present': sorted(present)}
    if left_out := len(given) - len(examples):
      about |= {'left_out': left_out}
    if noise:
      about |= {
        'corruption': noise.name,
        'level': noise.level,
        'modalities': list(_modalities(dataset, noise)),
        'noise_seed': noise.seed,
      }
    outputs = predict(
      self.stage,
      examples,
      self._variables,
      self._hparams,
      parallel=self._parallel,
      device_bytes=build.run(self.config).device_bytes,
    )
    paths = self.stage.budget_paths
    predictions = from_outputs(outputs, examples, self.stage.task, about, paths)
    if budget is None:
      return predictions
    valid = read_predictions(self._folder, 'valid')
    return at_budget(valid, predictions, self._prices, budget)

  def costs_with(self, present: Sequence[str] | None = None) -> build.Costs:
    """Multiply-accumulates of an example that has only these modalities.

    They are of what `predict` computes. What reads an absent modality alone costs
    nothing, but where a gate chooses one path, the path is run whole, with zeros for
    what is absent: these costs, and so a budget, are the same whatever is present.

    Args:
      present: the modalities; None for all.

    Raises:
      ValueError: unknown modality, or the model cannot judge by these alone.
    """
    costs = self.stage.costs
    if present is None:
      return costs
    self._check_present(present)
    if self.conditional:
      return costs
    example = build.example_inputs(self._spec)
    inputs = {name: example[name] for name in present}
    model = self._model(None)
    return dataclasses.replace(
      costs,
      total=count_macs(self._whole, *model, inputs),
      paths=path_macs(None, {p: self._follow(p) for p in costs.paths}, model, inputs),
    )

  def _whole(self, variables, hparams, inputs):
    """All of the model."""
    outputs = self.stage.model.apply(variables, inputs, train=False, hparams=hparams)
    return dataclasses.replace(outputs, hidden=None)

  def _follow(self, path: str):
    """What runs the gate and one path."""

    def run(model, inputs):
      variables, hparams = model
      return self.stage.model.apply(
        variables, path, inputs, train=False, hparams=hparams, method='follow'
      )

    return run

  def _check_present(self, present: Sequence[str]) -> None:
    """That these are modalities, and enough for the model."""
    known = sorted(self._spec.modalities)
    if unknown := sorted(set(present) - set(known)):
      raise ValueError(f'Unknown modality {unknown[0]!r}; expected {known}.')
    check_judges(self.stage.model, present)

  def _references(self, dataset: Dataset, noise: Noise) -> Mapping[str, Reference]:
    """Of the modalities that are to be corrupted; measured once for all noise."""
    names = _modalities(dataset, noise)
    if self._measured is None or self._measured[:2] != (id(dataset), names):
      references = measure(dataset.splits['train'], names)
      self._measured = id(dataset), names, references, dataset
    return self._measured[2]

  def _model(self, seed: int | None) -> tuple[Any, Any]:
    """Variables and hparams of one seed, on the device."""
    position = self._position(seed)
    if position not in self._models:
      found = variables.for_seed((self._variables, self._hparams), position)
      self._models[position] = jax.device_put(found)
    return self._models[position]

  def _position(self, seed: int | None) -> int:
    seed = self.seeds[0] if seed is None else seed
    if seed not in self.seeds:
      raise ValueError(f'seed={seed} is none of this run; it has {self.seeds}.')
    return self.seeds.index(seed)

  def _dial(self, seed: int | None) -> Dial:
    """Thresholds from the validation split, with an empty ledger."""
    position = self._position(seed)
    if position not in self._dials:
      valid = read_predictions(self._folder, 'valid')
      self._dials[position] = calibrate(gate_logits(valid)[position], self._costs)
    return self._dials[position]

  def _opened(self, inputs: Modalities | Reader) -> Modalities | Reader:
    """Inputs of the right names and shapes; a reader where some are files."""
    names, known = input_names(self.stage.model), self._spec.modalities
    has = inputs if isinstance(inputs, Mapping) else inputs.names
    here = [name for name in names if name in has]
    check_judges(self.stage.model, here)
    if not isinstance(inputs, Mapping):
      if self.conditional and (lacking := sorted({*names} - {*here})):
        raise ValueError(
          f'inputs: the reader lacks {lacking[0]!r}. Let it give zeros, and in '
          f'{present_key(lacking[0])!r} a mask of False.'
        )
      return inputs
    if unknown := sorted({*inputs} - {*known, *map(present_key, known)}):
      raise ValueError(
        f'inputs[{unknown[0]!r}]: there is no such modality; expected some of '
        f'{sorted(known)}, and masks {present_key("...")!r} of them.'
      )
    for name in names:
      if name not in inputs and np.any(inputs.get(present_key(name), False)):
        raise ValueError(
          f'inputs[{present_key(name)!r}] says that examples have {name!r}, which is '
          'not among the inputs.'
        )
    keys = [key for key in map(present_key, here) if key in inputs]
    given = {name: inputs[name] for name in (*here, *keys)}
    if self.conditional and len(here) < len(names):
      # A program that chooses what to read has a place for everything.
      size = FileRows(given, known).size
      example = build.example_inputs(self._spec)
      for name in {*names} - {*here}:
        given[name] = jax.tree.map(lambda x: np.repeat(x, size, 0), example[name])
        given[present_key(name)] = np.zeros(size, bool)
    rows = FileRows(given, known)
    return rows if rows.files else rows.read()

  def _judge(self, model, inputs: Modalities | Reader, policy: str) -> Outputs:
    """Outputs of a model without paths."""
    everyone, masks = self._present(inputs)
    if policy == 'dense' or all(mask.all() for mask in masks.values()):
      whole = inputs if isinstance(inputs, Mapping) else inputs.read(None, None)
      return jax.tree.map(np.asarray, self._apply(*model, whole))
    key = everyone, tuple(masks)
    if key not in self._masked:
      self._masked[key] = by_presence(self.stage.model, tuple(masks), everyone)
    _, _, outputs = self._masked[key](model, inputs, None, 'buckets')
    return Outputs(**jax.tree.map(np.asarray, outputs))

  def _dispatcher_of(self, inputs: Modalities | Reader) -> Dispatcher:
    """The one for these inputs, which may say who lacks a modality."""
    everyone, masks = self._present(inputs)
    if not masks:
      return self._dispatcher
    key = everyone, tuple(masks)
    if key not in self._masked:
      self._masked[key] = conditional(self.stage.model, self._costs, tuple(masks))
    return self._masked[key]

  def _present(
    self, inputs: Modalities | Reader
  ) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """The modalities that all examples have, and who has the others.

    Raises:
      ValueError: the model cannot judge an example by what it has.
    """
    arrays = isinstance(inputs, Mapping)
    given = inputs if arrays else inputs.names
    names = [name for name in input_names(self.stage.model) if name in given]
    keys = {name: key for name in names if (key := present_key(name)) in given}
    found = (
      inputs if isinstance(inputs, Mapping) else inputs.read([*keys.values()], None)
    )
    masks = {name: np.asarray(found[key]) for name, key in keys.items()}
    everyone = tuple(name for name in names if name not in masks)
    if masks:
      for pattern in np.unique(np.stack([*masks.values()]), axis=1).T:
        here = itertools.compress(masks, pattern)
        check_judges(self.stage.model, [*everyone, *here])
    return everyone, masks

  def _check_conditional(self) -> None:
    """That there is something to choose."""
    if self._dispatcher is None:
      raise ValueError(
        'This model computes everything for every example: it has no paths to choose '
        'from, or is evaluated with soft weights (gate.evaluate). It takes no budget, '
        "and no policy but 'dense' (or 'auto', which is that)."
      )

  def _outputs(self, chosen, shared, logits) -> Outputs:
    """What the dispatcher returned, as a gated model's outputs."""
    chosen = np.asarray(chosen)
    paths = self.stage.model.paths
    return Outputs(
      logits=np.asarray(logits),
      unimodal=jax.tree.map(np.asarray, shared['logits']),
      weights={path: (chosen == k).astype(np.float32) for k, path in enumerate(paths)},
      aux={'gate_logits': np.asarray(shared['gate_logits'])},
    )


def _check_fit(spec: DataSpec, own: DataSpec, root: str) -> None:
  """That data of one spec can be judged by a run on data of another."""

  def told(spec):
    shapes = {
      name: modality.shape[modality.sequence :]  # Sequences may be of other lengths.
      for name, modality in sorted(spec.modalities.items())
    }
    return f'{spec.task}, of modalities {shapes}'

  if told(spec) != told(own):
    raise DataError(f'{root}: {told(spec)}; the run is of {told(own)}.')
  # Some of the classes may not occur in the files.
  if spec.num_outputs > own.num_outputs or (
    spec.task != 'multiclass' and spec.num_outputs != own.num_outputs
  ):
    raise DataError(
      f'{root}: {spec.num_outputs} classes or labels; the run is of {own.num_outputs}.'
    )


def _find_split(dataset: Dataset, split: str) -> Split:
  if split not in dataset.splits:
    raise ValueError(f'Unknown split {split!r}; expected {sorted(dataset.splits)}.')
  return dataset.splits[split]


def _modalities(dataset: Dataset, noise: Noise) -> tuple[str, ...]:
  return noise.modalities or tuple(sorted(dataset.spec.modalities))


def load(workdir: str | Path) -> TrainedRun:
  """The main model of a finished run: `load('runs/digits_dyn').predict(inputs)`."""
  return TrainedRun(workdir)
