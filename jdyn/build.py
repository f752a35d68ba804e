"""From a config to objects; the only reader of ConfigDict.

Everything above gets plain values, everything below never sees a config. All that
can be wrong with a config by itself is found here, before anything is compiled: what a
key may hold by `config_schema`, and what fits what by building and tracing the model.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from jdyn import cost
from jdyn.config_rules import (
  check_experts,
  check_names,
  check_optimizer,
  check_temperature,
)
from jdyn.config_schema import (
  ConfigError,
  check_options,
  check_run,
  check_stage,
)
from jdyn.data.dataset import DataSpec, Source
from jdyn.data.sources import SOURCES
from jdyn.encoders import ENCODERS
from jdyn.fusions import FUSIONS
from jdyn.gates import GATES
from jdyn.losses import LOSSES
from jdyn.losses.term import LossTerm
from jdyn.misfit import MISFITS, in_a_line, naming
from jdyn.models import MODELS
from jdyn.models.exits import Exits
from jdyn.models.gated_mixture import expert_input
from jdyn.models.input_names import input_names
from jdyn.models.local_gates import LocallyGatedStages
from jdyn.models.precomputed import Precomputed, hidden_key, logits_key
from jdyn.optimizer import make_optimizer, make_schedule, one_cycle
from jdyn.tasks import TASKS
from jdyn.typing import Modalities, Outputs

MAIN = 'main'
"""Name of the stage that the config's own keys describe."""

RNGS = ('dropout', 'gate', 'probe')
"""What is random in training, by the name of its keys."""

_HPARAMS = {'gate_temperature': 1.0, 'gate_hard': True, 'evidential_annealing': 1.0}
_DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Stage:
  """One stage of training, in plain values.

  Attributes:
    name: its folder: `main`, or the path name of the expert that it trains.
    model: the whole model, as it is evaluated and deployed.
    trained: the model that the train step runs: with frozen experts, `model` with
      their logits looked up instead of computed.
    experts: stages that come first and become experts of `model`, by path.
    warm_up: by its name, a stage that comes first and with whose variables this one
      starts; empty if there is none.
    pretrained: folders of variables that this one starts with, by their place in its
      own (`jdyn.training.variables.place`).
    inputs: what `trained` reads of a batch.
    task: of the dataset.
    terms: of the objective, by name.
    costs: multiply-accumulates per example.
    make_optimizer: steps per epoch -> optimiser.
    make_schedules: steps per epoch -> what varies by step, by name. With several
      variants, functions of `(step, variant)`.
    soft_evaluation: evaluate the gate as it is trained instead of hard.
    batch_size: examples per step.
    epochs: at most.
    patience: epochs without improvement before stopping; -1 never stops.
    select: score that picks the best epoch.
    maximize: whether greater is better.
    frozen: the experts' logits are computed once, and `trained` looks them up.
    holdout: share of the training split that is kept from `experts`.
    dtype: of the computation.
    missing_rate: probability that training loses a modality of an example.
    num_variants: stages that this one stands for (see `merge`).
  """

  name: str
  model: nn.Module
  trained: nn.Module
  experts: Mapping[str, 'Stage']
  warm_up: Mapping[str, 'Stage']
  pretrained: Mapping[str, str]
  inputs: tuple[str, ...]
  task: Any
  terms: Mapping[str, LossTerm]
  costs: 'Costs'
  make_optimizer: Callable[[int], optax.GradientTransformation]
  make_schedules: Callable[[int], Mapping[str, optax.Schedule]]
  soft_evaluation: bool
  batch_size: int
  epochs: int
  patience: int
  select: str
  maximize: bool
  frozen: bool
  holdout: float
  dtype: Any
  missing_rate: float
  num_variants: int = 1

  @property
  def before(self) -> dict[str, 'Stage']:
    """The stages that must be trained before this one, by name."""
    return {**self.warm_up, **self.experts}

  @property
  def budget_paths(self) -> tuple[str, ...]:
    """The paths that a budget can choose among; empty if it cannot."""
    able = getattr(self.model, 'takes_budgets', True)
    return tuple(self.costs.paths) if able else ()

  def eval_hparams(self, hparams: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
    """What varies by step, as it is at evaluation: the gate is hard."""
    if self.soft_evaluation:
      return hparams
    return {**hparams, 'gate_hard': jnp.ones_like(hparams['gate_hard'])}


@dataclasses.dataclass(frozen=True)
class Costs:
  """Multiply-accumulates of one example.

  Attributes:
    total: when all of the model is computed.
    paths: by path, gate included; empty for a model without paths.
    parameters: number of trainable values.
  """

  total: int
  paths: Mapping[str, int]
  parameters: int


@dataclasses.dataclass(frozen=True)
class Run:
  """What holds for all stages of a run, in plain values (`configs/base.py`)."""

  root: str
  seeds: tuple[int, ...]
  parallel: str
  feed: str
  device_bytes: int
  host_threads: int
  steps_per_call: int
  unroll: int
  nonfinite: str
  checkpoint_seconds: float
  checkpoint_async: bool


def run(config: ConfigDict) -> Run:
  """The run's own keys.

  Raises:
    ConfigError: naming the key, if one is out of range.
  """
  check_run(config.to_dict())
  return Run(
    root=config.data.root,
    seeds=tuple(range(config.seed, config.seed + config.num_seeds)),
    parallel=config.parallel,
    feed=config.feed,
    device_bytes=config.device_bytes,
    host_threads=config.host_threads,
    steps_per_call=config.steps_per_call,
    unroll=config.unroll,
    nonfinite=config.nonfinite,
    checkpoint_seconds=config.checkpoint_seconds,
    checkpoint_async=config.checkpoint_async,
  )


def source(config: ConfigDict) -> Source:
  """The reader of the config's dataset.

  Raises:
    ConfigError: naming the key.
  """
  entry = {key: value for key, value in config.data.to_dict().items() if key != 'root'}
  return _make('data', 'dataset', SOURCES, entry)


def encoder(config: ConfigDict, modality: str) -> nn.Module:
  """The encoder of a modality in the main model, which is the same for all data.

  Raises:
    ConfigError: the model has none.
  """
  model = config.model.to_dict()
  entries = model.get('network', model).get('encoders', {})
  entry = _lookup('encoder of', entries, modality)
  return _make(f'model.encoders.{modality}', 'encoder', ENCODERS, entry)


def stage(config: ConfigDict, spec: DataSpec, axis_name: str | None = None) -> Stage:
  """The main stage of a run, and within it the stages of its experts.

  Args:
    config: a run's keys (`configs/base.py`).
    spec: of the dataset.
    axis_name: the data axis under `pmap` or `shard_map`; None on one device.

  Raises:
    ConfigError: naming the key, if the config cannot run on this dataset.
  """
  dtype = _lookup('dtype', _DTYPES, config.dtype)
  return _Builder(spec, axis_name, dtype).stage(config, MAIN)


def merge(stages: Sequence[Stage]) -> Stage:
  """One stage that stands for several, to be trained in one program.

  Its terms are those that any of them has, and where a stage leaves a term out its
  weight is 0. Its schedules choose among those of the stages by their second
  argument.

  Args:
    stages: of configs with the same `program_key`.
  """
  if len(stages) == 1:
    return stages[0]

  def make_schedules(steps: int) -> Mapping[str, Callable]:
    each = [stage.make_schedules(steps) for stage in stages]
    return {name: _choice([schedules[name] for schedules in each]) for name in each[0]}

  return dataclasses.replace(
    stages[0],
    terms={name: term for stage in stages for name, term in stage.terms.items()},
    make_schedules=make_schedules,
    num_variants=len(stages),
  )


def _choice(schedules: Sequence[optax.Schedule]) -> Callable:
  def choose(step, variant=0):
    return jnp.stack([schedule(step) for schedule in schedules])[variant]

  return choose


def program_key(config: ConfigDict) -> str:
  """Equal for configs whose main stages can be trained in one program.

  Such configs differ in nothing but what comes in through `hparams`: the weights of
  the loss terms, and the gate's temperature and soft epochs.
  """
  plain = config.to_dict()
  for term in LOSSES:
    del plain['loss'][term]
  del plain['gate']['temperature'], plain['gate']['soft_epochs']
  return json.dumps(plain, sort_keys=True)


def before_key(config: ConfigDict, name: str) -> str:
  """Equal for configs of which a stage before the main one comes out the same."""
  stage = {**config.warm_up, **config.experts}[name].to_dict()
  run_keys = {key: value for key, value in config.to_dict().items() if key not in stage}
  return json.dumps([run_keys, config.holdout, name, stage], sort_keys=True)


def find_stage(stage: Stage, name: str) -> Stage:
  """The stage of that name in the tree of a main stage.

  Raises:
    ConfigError: there is none.
  """
  stages = {s.name: s for s in all_stages(stage)}
  return _lookup('stage', stages, name)


def all_stages(stage: Stage) -> list[Stage]:
  """The stages before a stage, recursively, in training order, and then itself."""
  before = [s for name in sorted(stage.before) for s in all_stages(stage.before[name])]
  return [*before, stage]


def _lookup(kind: str, table: Mapping[str, Any], name: str) -> Any:
  if name not in table:
    raise ConfigError(f'Unknown {kind} {name!r}; expected one of {sorted(table)}.')
  return table[name]


def _make(
  key: str, kind: str, table: Mapping[str, Any], entry: Mapping[str, Any], **fixed
) -> Any:
  """Builds `table[entry['name']]` with the entry's other items as fields.

  Args:
    key: of the entry, for messages.
    kind: of what is in the table, in a word.
    table: classes by name.
    entry: of a config.
    **fixed: fields that are set here, whatever the entry says.

  Raises:
    ConfigError: naming the key.
  """
  cls = check_options(key, kind, table, entry, given=tuple(fixed))
  fields = {field.name for field in dataclasses.fields(cls)}
  if lacking := sorted(set(fixed) - fields):
    raise ConfigError(
      f'{key}.name: {kind} {entry["name"]!r} has no {lacking[0]!r}, which would be set '
      f'here; take another {kind}.'
    )
  options = {name: _plain(value) for name, value in entry.items() if name != 'name'}
  try:
    return cls(**options | fixed)
  except (TypeError, ValueError) as error:
    raise ConfigError(f'{key}: {kind} {entry["name"]!r}: {error}') from error


def _plain(value: Any) -> Any:
  """A config's value; a list that came from JSON is a tuple again."""
  return tuple(_plain(item) for item in value) if isinstance(value, list) else value


class _Builder:
  """Builds stages for one dataset."""

  def __init__(self, spec: DataSpec, axis_name: str | None, dtype: Any):
    self._spec, self._axis_name, self._dtype = spec, axis_name, dtype
    self._shapes: dict[str, Any] = {}
    self._traces: dict[str, tuple] = {}
    self._task = _lookup('task', TASKS, spec.task)(num_outputs=spec.num_outputs)
    # Training may weigh classes, scores do not.
    self._weighted = self._task
    if spec.class_weights:
      self._weighted = dataclasses.replace(self._task, class_weights=spec.class_weights)

  def stage(self, config: ConfigDict, name: str) -> Stage:
    """The stage of `config` and those of its experts."""
    check_stage(name, config.to_dict(), main=name == MAIN)
    experts, warm_up = (
      {
        key: self.stage(group[key], key if name == MAIN else f'{name}.{key}')
        for key in group
      }
      for group in (config.experts, config.warm_up)
    )
    check_names(name, MAIN, experts, warm_up)
    check_temperature(name, config.gate.temperature)
    check_optimizer(name, config.optimizer)

    noise = config.gate.mode.startswith('gumbel')
    key, entry = f'{name}: model', config.model.to_dict()
    models = {path: expert.model for path, expert in experts.items()}
    model = self._model(key, entry, models, noise)
    self._check_inputs(name, input_names(model))
    paths = tuple(getattr(model, 'paths', ()))
    used = getattr(model, 'experts', {})
    if experts and set(used) != set(experts):
      raise ConfigError(
        f'{name}: experts {sorted(experts)} would be trained, but the model uses '
        f'{sorted(used)}; remove the stages, or model.experts.'
      )
    check_experts(name, config, used, experts)
    frozen = bool(experts) and config.freeze == 'eval'
    trained, cached = model, []
    if frozen:
      lookups = {
        path: Precomputed(path, input_names(expert)) for path, expert in models.items()
      }
      trained = self._model(key, entry, lookups, noise)
      cached = [logits_key(path) for path in experts]
      read = getattr(model, 'gate_inputs', ())
      behind = 'hidden' in getattr(getattr(model, 'fusion', None), 'context', ())
      cached += [key for key in map(hidden_key, experts) if behind or key in read]

    rows = min(config.batch_size, 2)  # Where one is too few, training refuses it.
    traced = self._traced(name, entry, noise, model, paths, experts, rows)
    variables, inputs, costs, outputs = traced
    pretrained = _places(name, config.pretrained.to_dict(), model)
    self._check_start(name, pretrained, variables, warm_up)
    views = sorted(outputs.unimodal)
    prices = self._path_prices(name, config.loss, model, costs.paths, variables, inputs)
    terms = self._terms(name, config.loss, prices, views)
    self._check_terms(name, outputs, terms, rows)
    self._check_missing(name, config.missing_rate, model, frozen)
    learns = getattr(getattr(model, 'fusion', None), 'weights_learn', True)
    if config.loss.rank and not learns:
      raise ConfigError(
        f'{name}: loss.rank={config.loss.rank} would train nothing, since no gradient '
        f'reaches the weights of fusion {config.model.fusion.name!r}; set it to 0.'
      )
    scale = 0.0 if config.freeze == 'compat' else config.optimizer.expert_scale
    fixed = ('network',) if getattr(model, 'freeze', 'none') != 'none' else ()
    select = config.select or self._task.main_score
    stage = Stage(
      name=name,
      model=model,
      trained=trained,
      experts=experts,
      warm_up=warm_up,
      pretrained=pretrained,
      inputs=(*input_names(trained), *cached),
      task=self._task,
      terms=terms,
      costs=costs,
      make_optimizer=lambda steps: make_optimizer(
        config.optimizer.name,
        _schedule(
          f'{name}: optimizer.learning_rate',
          config.optimizer.learning_rate,
          config.epochs,
          steps,
        ),
        weight_decay=config.optimizer.weight_decay,
        momentum=_momentum(config, steps),
        nesterov=config.optimizer.nesterov,
        clip_norm=config.optimizer.clip_norm,
        expert_scale=scale,
        fixed=fixed,
      ),
      make_schedules=lambda steps: _schedules(name, config, steps),
      soft_evaluation=config.gate.evaluate == 'as_trained',
      batch_size=config.batch_size,
      epochs=config.epochs,
      patience=config.patience,
      select=select,
      maximize=self._maximizes(name, select),
      frozen=frozen,
      holdout=config.holdout,
      dtype=self._dtype,
      missing_rate=config.missing_rate,
    )
    # What these refuse is known now, and not when the experts are trained.
    stage.make_optimizer(1)
    schedules = stage.make_schedules(1)
    step = jax.ShapeDtypeStruct((), jnp.int32)
    jax.eval_shape(lambda step: {k: f(step) for k, f in schedules.items()}, step)
    return stage

  def _maximizes(self, name: str, select: str) -> bool:
    """Whether the best epoch is that with the greatest score."""
    if select == 'objective':
      return False
    try:
      return self._task.higher_is_better(select)
    except ValueError as error:
      raise ConfigError(f'{name}: select={select!r}: {error}') from error

  def _model(
    self, key: str, entry, experts: Mapping[str, nn.Module], noise: bool
  ) -> nn.Module:
    """A model; where the entry names no experts of its own, the stage's are used."""
    check_options(key, 'model', MODELS, entry)
    size = self._spec.num_outputs
    fields: dict[str, Any] = {}
    for part, value in entry.items():
      at = f'{key}.{part}'
      if part == 'encoder':
        fields[part] = self._module(at, 'encoder', ENCODERS, value)
      elif part == 'head':
        fields[part] = self._module(at, 'head', ENCODERS, value, features=size)
      elif part == 'encoders':
        fields[part] = {
          name: self._module(f'{at}.{name}', 'encoder', ENCODERS, value[name])
          for name in value
        }
      elif part == 'fusion' and isinstance(value, Mapping):
        fields[part] = self._fusion(at, value)
      elif part == 'network':
        fields[part] = self._network(at, value, noise)
      elif part == 'experts':
        own = {n: self._model(f'{at}.{n}', value[n], {}, noise) for n in value}
        fields[part] = own or dict(experts)
    found = fields.get('experts')
    if found == {}:
      raise ConfigError(
        f'{key}.experts is empty, and the stage has none either; add config.experts, '
        'stages that are trained first, or models here.'
      )
    if 'gate' in entry:
      fields['gate'] = self._gates(key, entry, fields, noise)
    paths = entry.get('paths')
    if paths is not None and sorted(paths) != sorted(found):
      raise ConfigError(
        f'{key}.paths={tuple(paths)} must name the experts {sorted(found)}.'
      )
    if 'gate_inputs' in entry:
      fields['confidence'] = self._task.confidence
      self._check_gate(f'{key}.gate_inputs', entry['gate_inputs'], found)
    return self._module(key, 'model', MODELS, entry, **fields)

  def _network(self, key: str, entry, noise: bool) -> nn.Module:
    """A model of two streams, whose exits another chooses among."""
    network = self._model(key, entry, {}, noise)
    if not hasattr(network, 'side_stream') or len(network.encoders) != 2:
      raise ConfigError(
        f'{key}: {entry["name"]!r} with these encoders has no second stream that could '
        "end early; take model 'esanet' with two."
      )
    return network

  def _check_gate(self, key: str, names, experts: Mapping[str, nn.Module]) -> None:
    """That what the gate would read of experts is there."""
    if not names:
      raise ConfigError(f'{key} is empty; give modalities, or logits/EXPERT.')
    for name in names:
      if not (of_expert := expert_input(name)):
        continue
      kind, path = of_expert
      if path not in experts:
        raise ConfigError(
          f'{key}: {name!r} is of no expert; they are {sorted(experts)}.'
        )
      expert = experts[path]
      # A cached expert has what its model has, which was checked before.
      headless = not (hasattr(expert, 'head') or isinstance(expert, Precomputed))
      if kind == 'hidden' and headless:
        raise ConfigError(
          f'{key}: expert {path!r} has no hidden state of its own; read '
          f"'logits/{path}' or 'confidence/{path}'."
        )
      if kind == 'confidence' and self._spec.task == 'regression':
        raise ConfigError(
          f'{key}: a regression has no {name!r}; read '
          f"'hidden/{path}' or 'logits/{path}'."
        )

  def _gates(
    self, key: str, entry, fields, noise: bool
  ) -> nn.Module | tuple[nn.Module, ...]:
    """The gate of a model, or its gates, with an output for each choice."""
    key = f'{key}.gate'
    if 'paths' in entry:
      return self._gate(key, entry['gate'], len(entry['paths']), noise)
    stages = fields['network'].stages
    if MODELS[entry['name']] is LocallyGatedStages:
      return tuple(self._gate(key, entry['gate'], 2, noise) for _ in range(stages))
    # There is an exit behind each stage, and one before the first.
    return self._gate(key, entry['gate'], stages + 1, noise)

  def _gate(self, key: str, entry, size: int, noise: bool) -> nn.Module:
    check_options(key, 'gate', GATES, entry)
    parts = {part: dict(entry[part]) for part in ('encoder', 'head')}
    head = check_options(f'{key}.head', 'head', ENCODERS, parts['head'], ['features'])
    # The head decides; one without a layer of its own leaves that to the encoder.
    own = 'features' in {field.name for field in dataclasses.fields(head)}
    parts['head' if own else 'encoder']['features'] = size
    modules = {
      part: self._module(f'{key}.{part}', part, ENCODERS, parts[part]) for part in parts
    }
    return self._module(key, 'gate', GATES, entry, noise=noise, **modules)

  def _fusion(self, key: str, entry) -> nn.Module:
    """A fusion, after the one inside it."""
    check_options(key, 'fusion', FUSIONS, entry)
    inner = {}
    if 'fusion' in entry:
      inner['fusion'] = self._fusion(f'{key}.fusion', entry['fusion'])
    fusion = self._module(key, 'fusion', FUSIONS, entry, **inner)
    tasks = getattr(fusion, 'tasks', (self._spec.task,))
    if self._spec.task not in tasks:
      raise ConfigError(
        f'{key}: fusion {entry["name"]!r} is of {" or ".join(tasks)} logits; dataset '
        f'{self._spec.name!r} is {self._spec.task}. Take another fusion.'
      )
    return fusion

  def _module(self, key: str, kind: str, table, entry, **fixed) -> nn.Module:
    cls = check_options(key, kind, table, entry, given=tuple(fixed))
    known = {'axis_name': self._axis_name, 'num_outputs': self._spec.num_outputs}
    fields = {f.name for f in dataclasses.fields(cls)}
    fixed |= {name: known[name] for name in known.keys() & fields}
    return _make(key, kind, table, entry, **fixed)

  def _check_inputs(self, name: str, names: tuple[str, ...]) -> None:
    if unknown := sorted(set(names) - set(self._spec.modalities)):
      raise ConfigError(
        f'{name}: the model reads {unknown}, but dataset {self._spec.name!r} has '
        f'the modalities {sorted(self._spec.modalities)}; name these alone (modality, '
        'modalities, encoders or gate_inputs of the model).'
      )

  def _traced(self, name, entry, noise, model, paths, experts, rows) -> tuple:
    """Variables and an example, costs, and the outputs of training on some rows.

    Tracing a deep network takes seconds, and stages that go on from one another have
    the same one: each is traced once.
    """
    key = json.dumps([name if experts else '', noise, rows, entry], sort_keys=True)
    if key not in self._traces:
      with naming(name, entry, rows):
        run, variables, inputs = self._abstract(model)
        whole = jax.jit(run('__call__'))  # Traced once for all who ask.
        costs = self._costs(whole, run, variables, inputs, paths)
        outputs = self._trained_outputs(model, variables, rows)
      self._traces[key] = variables, inputs, costs, outputs
    return self._traces[key]

  def _abstract(self, model: nn.Module) -> tuple[Callable, Any, Modalities]:
    """What runs a method of the model on one example, its variables, the example."""
    inputs = example_inputs(self._spec)
    options = {'train': False, 'hparams': _HPARAMS}
    variables = jax.eval_shape(
      lambda inputs: model.init(jax.random.key(0), inputs, **options), inputs
    )

    def run(method, *args):
      return lambda variables, inputs: model.apply(
        variables, *args, inputs, method=method, **options
      )

    return run, variables, inputs

  def _trained_outputs(self, model: nn.Module, variables, rows: int) -> Outputs:
    """Shapes of what training computes of some rows; it sees the data axis."""
    inputs = jax.tree.map(lambda x: _repeat(x, rows), example_inputs(self._spec))

    def run(variables, inputs):
      keys = {name: jax.random.key(0) for name in RNGS}
      mutable = [name for name in variables if name != 'params']
      outputs, _ = model.apply(
        variables, inputs, train=True, hparams=_HPARAMS, rngs=keys, mutable=mutable
      )
      return outputs

    if self._axis_name is None:
      return jax.eval_shape(run, variables, inputs)
    stacked = jax.tree.map(lambda x: np.zeros((1, *x.shape), x.dtype), inputs)
    run = jax.vmap(run, in_axes=(None, 0), axis_name=self._axis_name)
    outputs = jax.eval_shape(run, variables, stacked)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), outputs)

  def _costs(self, whole, run, variables, inputs, paths: tuple[str, ...]) -> Costs:
    follow = {path: run('follow', path) for path in paths}
    by_path = cost.path_macs(None, follow, variables, inputs)
    leaves = jax.tree.leaves(variables.get('params', {}))
    return Costs(
      total=cost.count_macs(whole, variables, inputs),
      paths=by_path,
      parameters=sum(leaf.size for leaf in leaves),
    )

  def _terms(self, name, loss, prices, views) -> Mapping[str, LossTerm]:
    terms, factors = {}, loss.expert_weights.to_dict()
    for term in loss.schedules:
      if not loss[term]:
        raise ConfigError(
          f'{name}: loss.schedules.{term} varies the weight loss.{term}=0; set that, '
          'or leave the schedule out.'
        )
    if loss.supervised:
      terms['supervised'] = LOSSES['supervised'](self._weighted)
    if loss.per_expert:
      terms['per_expert'] = LOSSES['per_expert'](self._weighted, factors)
    if loss.informativeness:
      terms['informativeness'] = LOSSES['informativeness'](factors)
    if loss.confidence:
      terms['confidence'] = LOSSES['confidence'](
        self._task,
        factors,
        detach=loss.confidence_target == 'detached',
        error=loss.confidence_error,
      )
    if loss.rank:
      terms['rank'] = LOSSES['rank'](
        self._task,
        views,
        margin=loss.rank_margin,
        statistic=loss.rank_history,
        update_first=loss.rank_update == 'before',
      )
    if loss.evidential:
      terms['evidential'] = LOSSES['evidential'](self._task)
    if loss.jacobian:
      terms['jacobian'] = LOSSES['jacobian']()
    if loss.side_outputs:
      terms['side_outputs'] = LOSSES['side_outputs'](self._weighted)
    if (loss.budget or loss.balance) and not prices:
      raise ConfigError(
        f'{name}: loss.budget and loss.balance need a gated model; set both to 0.'
      )
    if prices:
      # Always a term, if only with weight 0: validation then shows the cost.
      costs = list(prices.values())
      terms['budget'] = LOSSES['budget'](tuple(prices), costs, loss.budget_free)
    if loss.balance:
      terms['balance'] = LOSSES['balance'](tuple(prices))
    if not any(loss[term] for term in LOSSES):
      raise ConfigError(f'{name}: every weight in loss is 0; nothing would be trained.')
    return terms

  def _path_prices(
    self, name, loss, model, macs, variables, inputs
  ) -> dict[str, float]:
    """What the budget term charges by path."""
    if not macs and (loss.budget_unit != 'macs' or loss.budget_free):
      raise ConfigError(
        f'{name}: loss.budget_unit={loss.budget_unit!r} and loss.budget_free='
        f"{loss.budget_free} are of a gated model; set 'macs' and 0."
      )
    if loss.budget_unit == 'macs':
      return {path: value / max(macs.values()) for path, value in macs.items()}
    if not isinstance(model, Exits):
      return {path: float(k == 1) for k, path in enumerate(macs)}

    def count(number):
      return cost.thop_macs(
        lambda v, x: model.apply(v, number, x, train=False, method='side_stream'),
        variables,
        inputs,
        bias_ops=1,
      )

    # The released loss is a mean over the exits of weight times cost, not their sum.
    return {path: count(k) / 1e9 / len(macs) for k, path in enumerate(macs)}

  def _check_start(self, name, pretrained, variables, warm_up) -> None:
    """That the variables to start with are of such a model."""
    if warm_up and pretrained:
      raise ConfigError(
        f'{name}: warm_up and pretrained both say what to start with; give pretrained '
        'to the stage of the warm-up.'
      )
    self._shapes[name] = jax.tree.map(lambda x: (x.shape, str(x.dtype)), variables)
    for stage in warm_up.values():
      if self._shapes[stage.name] != self._shapes[name]:
        raise ConfigError(
          f'{name}: stage {stage.name!r} cannot warm it up, since its model has other '
          'variables; take the same model, but for what has none (policy, gate mode).'
        )

  def _check_missing(self, name, rate: float, model: nn.Module, frozen: bool) -> None:
    """That the model can be trained without all of its modalities."""
    if not 0 <= rate < 1:
      raise ConfigError(f'{name}: missing_rate={rate} must lie in [0, 1).')
    if rate and frozen:
      raise ConfigError(
        f'{name}: missing_rate={rate} takes modalities away, and the logits of frozen '
        "experts are not computed again; set freeze='none', or missing_rate on the "
        'stages of the experts.'
      )
    names = input_names(model)
    alone = [n for n in names if rate and not model.available({n: None})]
    if alone:
      raise ConfigError(
        f'{name}: missing_rate={rate} would leave examples with nothing but '
        f'{alone[0]!r}, which the model cannot judge; set absent_embedding=True of its '
        'feature_fusion, or use a decision_fusion of experts.'
      )

  def _check_terms(
    self, name: str, outputs: Outputs, terms: Mapping[str, LossTerm], rows: int
  ) -> None:
    """That the outputs of some rows, and the task, have what every term reads."""
    batch = {
      'label': _repeat(example_label(self._spec), rows),
      'mask': np.ones(rows, np.float32),
      'index': np.arange(rows, dtype=np.int32),
    }

    def run(outputs, batch):
      for term in terms.values():
        term.apply(outputs, batch, _HPARAMS, term.init(rows), None)

    try:
      jax.eval_shape(run, outputs, batch)
    except MISFITS as error:
      raise ConfigError(f'{name}: {in_a_line(error)}') from error


def _repeat(x: np.ndarray, rows: int) -> np.ndarray:
  return np.broadcast_to(x, (rows, *x.shape[1:]))


def example_inputs(spec: DataSpec) -> Mapping[str, Any]:
  """A batch of one example, all zeros, with the shapes of `spec`."""
  inputs = {}
  for name, modality in spec.modalities.items():
    array = np.zeros((1, *modality.shape), np.float32)
    if modality.sequence:
      length = np.full((1,), modality.shape[0], np.int32)
      inputs[name] = {'steps': array, 'length': length}
    else:
      inputs[name] = array
  return inputs


def example_label(spec: DataSpec) -> np.ndarray:
  """The label of one example, all zeros, with shape and type of `spec`."""
  if spec.task == 'segmentation':
    height, width = next(iter(spec.modalities.values())).shape[:2]
    return np.zeros((1, height, width), np.uint8)
  shape = (1, spec.num_outputs) if spec.task == 'multilabel' else (1,)
  return np.zeros(shape, np.int32 if spec.task == 'multiclass' else np.float32)


def _steps(epochs: float, steps_per_epoch: int) -> int:
  """The same time in steps, which are counted in 32 bits."""
  return min(round(epochs * steps_per_epoch), 2**31 - 1)


def _schedule(
  key: str, entry: ConfigDict, epochs: int, steps_per_epoch: int
) -> optax.Schedule:
  if entry.name == 'one_cycle':
    top, whole = entry.init_value, round(entry.epochs or epochs)
    if entry.warmup:
      raise ConfigError(
        f'{key}.warmup={entry.warmup}: a one_cycle schedule warms up by itself; set it '
        'to 0.'
      )
    return one_cycle(top / 25, top, entry.end_value, whole, steps_per_epoch)
  if entry.warmup >= epochs:
    raise ConfigError(
      f'{key}.warmup={entry.warmup} must be less than the {epochs} epochs of the stage.'
    )
  try:
    return make_schedule(
      entry.name,
      entry.init_value,
      entry.end_value,
      _steps(entry.epochs or epochs - entry.warmup, steps_per_epoch),
      _steps(entry.warmup, steps_per_epoch),
    )
  except ValueError as error:
    raise ConfigError(f'{key}: {error}') from error


def _places(
  name: str, pretrained: Mapping[str, str], model: nn.Module
) -> dict[str, str]:
  """Folders by place in the model's variables; keys without a folder are left out."""
  inner = 'network/' if hasattr(model, 'network') else ''
  known = {'model': ''} | ({'network': 'network'} if inner else {})
  if hasattr(model, 'modality'):
    known[model.modality] = 'encoder'
  for modality in getattr(model, 'encoders', ()):
    known[modality] = f'{inner}encoders_{modality}'
  asked = {key: folder for key, folder in pretrained.items() if folder}
  if unknown := sorted(set(asked) - set(known)):
    raise ConfigError(
      f'{name}: pretrained.{unknown[0]}={asked[unknown[0]]!r}: the model has no such '
      f'part; expected one of {sorted(known)}.'
    )
  return {known[key]: folder for key, folder in asked.items()}


def _momentum(config: ConfigDict, steps_per_epoch: int) -> float | optax.Schedule:
  """A number, or against a one-cycle learning rate as torch moves it."""
  if config.optimizer.cycle_momentum == 'none':
    return config.optimizer.momentum
  return one_cycle(0.95, 0.85, 0.95, config.epochs, steps_per_epoch)


def _schedules(
  name: str, config: ConfigDict, steps_per_epoch: int
) -> dict[str, optax.Schedule]:
  """What varies by step: the gate's temperature and hardness, and the weights."""
  hard_from = _steps(config.gate.soft_epochs, steps_per_epoch)
  hard_mode = config.gate.mode.endswith('straight_through')
  schedules = {
    'gate_temperature': _schedule(
      f'{name}: gate.temperature',
      config.gate.temperature,
      config.epochs,
      steps_per_epoch,
    ),
    'gate_hard': lambda step: jnp.asarray(hard_mode & (step >= hard_from)),
    'evidential_annealing': lambda step: jnp.minimum(
      (step // steps_per_epoch) / config.loss.annealing_epochs, 1.0
    ),
  }
  for term in LOSSES:
    schedules[f'weight_{term}'] = _weight(name, config, term, steps_per_epoch)
  return schedules


def _weight(
  name: str, config: ConfigDict, term: str, steps_per_epoch: int
) -> optax.Schedule:
  """The weight of a term of the objective by step."""
  if term not in config.loss.schedules:
    return optax.constant_schedule(config.loss[term])
  key, entry = f'{name}: loss.schedules.{term}', config.loss.schedules[term]
  factor = _schedule(key, entry, config.epochs, steps_per_epoch)
  return lambda step: config.loss[term] * factor(step)
