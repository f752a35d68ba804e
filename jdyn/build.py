"""From a config to objects; the only reader of ConfigDict.

Everything above gets plain values, everything below never sees a config. All that
can be wrong with a config is found here, before anything is compiled.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from jdyn import cost
from jdyn.data.dataset import DataSpec, Source
from jdyn.data.sources import SOURCES
from jdyn.encoders import ENCODERS
from jdyn.fusions import FUSIONS
from jdyn.gates import GATES
from jdyn.losses import LOSSES
from jdyn.losses.term import LossTerm
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

_GATE_MODES = ('soft', 'straight_through', 'gumbel', 'gumbel_straight_through')
_FREEZE = ('eval', 'none', 'compat')
_HPARAMS = {'gate_temperature': 1.0, 'gate_hard': True, 'evidential_annealing': 1.0}
_DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


class ConfigError(ValueError):
  """A config that cannot run; the message names the key and the remedy."""


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
  checkpoint_seconds: float


def run(config: ConfigDict) -> Run:
  """The run's own keys.

  Raises:
    ConfigError: naming the key, if one is out of range.
  """
  for key in ('num_seeds', 'steps_per_call', 'unroll', 'host_threads'):
    if config[key] < 1:
      raise ConfigError(f'{key}={config[key]} must be at least 1.')
  if not 0 <= config.seed < 2**31:
    raise ConfigError(f'seed={config.seed} must lie in [0, 2**31).')
  return Run(
    root=config.data.root,
    seeds=tuple(range(config.seed, config.seed + config.num_seeds)),
    parallel=config.parallel,
    feed=config.feed,
    device_bytes=config.device_bytes,
    host_threads=config.host_threads,
    steps_per_call=config.steps_per_call,
    unroll=config.unroll,
    checkpoint_seconds=config.checkpoint_seconds,
  )


def source(config: ConfigDict) -> Source:
  """The reader of the config's dataset."""
  entry = config.data.to_dict()
  entry.pop('root')
  return _make('dataset', SOURCES, entry)


def encoder(config: ConfigDict, modality: str) -> nn.Module:
  """The encoder of a modality in the main model, which is the same for all data.

  Raises:
    ConfigError: the model has none.
  """
  model = config.model.to_dict()
  entries = model.get('network', model).get('encoders', {})
  return _make('encoder', ENCODERS, _lookup('encoder of', entries, modality))


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


def _make(kind: str, table: Mapping[str, Any], entry: Mapping[str, Any], **fixed):
  """Builds `table[entry['name']]` with the entry's other items as fields."""
  cls = _lookup(kind, table, entry.get('name', ''))
  options = {key: _plain(value) for key, value in entry.items() if key != 'name'}
  options |= fixed
  fields = {f.name for f in dataclasses.fields(cls)} - {'parent', 'name'}
  if unknown := sorted(set(options) - fields):
    raise ConfigError(
      f'{kind} {entry["name"]!r} has no option {unknown}; it has {sorted(fields)}.'
    )
  try:
    return cls(**options)
  except (TypeError, ValueError) as error:
    raise ConfigError(f'{kind} {entry["name"]!r}: {error}.') from error


def _plain(value: Any) -> Any:
  """A config's value; a list that came from JSON is a tuple again."""
  return tuple(_plain(item) for item in value) if isinstance(value, list) else value


class _Builder:
  """Builds stages for one dataset."""

  def __init__(self, spec: DataSpec, axis_name: str | None, dtype: Any):
    self._spec, self._axis_name, self._dtype = spec, axis_name, dtype
    self._shapes: dict[str, Any] = {}
    self._traces: dict[str, tuple] = {}
    self._task = _make(
      'task', TASKS, {'name': spec.task, 'num_outputs': spec.num_outputs}
    )
    # Training may weigh classes, scores do not.
    self._weighted = self._task
    if spec.class_weights:
      self._weighted = dataclasses.replace(self._task, class_weights=spec.class_weights)

  def stage(self, config: ConfigDict, name: str) -> Stage:
    """The stage of `config` and those of its experts."""
    experts, warm_up = (
      {
        key: self.stage(group[key], key if name == MAIN else f'{name}.{key}')
        for key in group
      }
      for group in (config.experts, config.warm_up)
    )
    if MAIN in (*experts, *warm_up):
      raise ConfigError(f'{MAIN}: this name is the main stage; choose another.')
    if len(warm_up) > 1 or set(warm_up) & set(experts):
      raise ConfigError(
        f'{name}: warm_up {sorted(warm_up)} must be one stage at most, with a name '
        f'that no expert has ({sorted(experts)}).'
      )
    gate = config.gate
    _one_of(f'{name}: gate.mode', gate.mode, _GATE_MODES)
    _one_of(f'{name}: gate.evaluate', gate.evaluate, ('hard', 'as_trained'))
    _one_of(f'{name}: freeze', config.freeze, _FREEZE)
    if not 0 <= config.holdout < 1:
      raise ConfigError(f'{name}: holdout={config.holdout} must lie in [0, 1).')
    for key in ('batch_size', 'epochs'):
      if config[key] < 1:
        raise ConfigError(f'{name}: {key}={config[key]} must be at least 1.')
    _check_temperature(name, gate.temperature)

    noise = gate.mode.startswith('gumbel')
    models = {path: expert.model for path, expert in experts.items()}
    model = self._model(config.model.to_dict(), models, noise)
    self._check_inputs(name, input_names(model))
    paths = tuple(getattr(model, 'paths', ()))
    used = getattr(model, 'experts', {})
    if experts and set(used) != set(experts):
      raise ConfigError(
        f'{name}: experts {sorted(experts)} would be trained, but the model uses '
        f'{sorted(used)}; remove the stages, or model.experts.'
      )
    frozen = bool(experts) and config.freeze == 'eval'
    trained, cached = model, []
    if frozen:
      lookups = {
        path: Precomputed(path, input_names(expert)) for path, expert in models.items()
      }
      trained = self._model(config.model.to_dict(), lookups, noise)
      cached = [logits_key(path) for path in experts]
      read = getattr(model, 'gate_inputs', ())
      behind = 'hidden' in getattr(getattr(model, 'fusion', None), 'context', ())
      cached += [key for key in map(hidden_key, experts) if behind or key in read]

    traced = self._traced(name, config.model, noise, model, paths, experts)
    variables, inputs, costs, outputs = traced
    pretrained = _places(name, config.pretrained.to_dict(), model)
    self._check_start(name, pretrained, variables, warm_up)
    views = sorted(outputs.unimodal)
    prices = self._path_prices(name, config.loss, model, costs.paths, variables, inputs)
    terms = self._terms(name, config.loss, prices, views)
    self._check_terms(name, outputs, terms, getattr(model, 'side_scales', ()))
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
    return Stage(
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
        _schedule(config.optimizer.learning_rate, config.epochs, steps),
        weight_decay=config.optimizer.weight_decay,
        momentum=_momentum(config, steps),
        nesterov=config.optimizer.nesterov,
        clip_norm=config.optimizer.clip_norm,
        expert_scale=scale,
        fixed=fixed,
      ),
      make_schedules=lambda steps: _schedules(config, steps),
      soft_evaluation=gate.evaluate == 'as_trained',
      batch_size=config.batch_size,
      epochs=config.epochs,
      patience=config.patience,
      select=select,
      maximize=select != 'objective' and self._task.higher_is_better(select),
      frozen=frozen,
      holdout=config.holdout,
      dtype=self._dtype,
      missing_rate=config.missing_rate,
    )

  def _model(self, entry, experts: Mapping[str, nn.Module], noise: bool) -> nn.Module:
    """A model; where the entry names no experts of its own, the stage's are used."""
    size = self._spec.num_outputs
    fields: dict[str, Any] = {}
    for key, value in entry.items():
      if key == 'encoder':
        fields[key] = self._module('encoder', ENCODERS, value)
      elif key == 'head':
        fields[key] = self._module('head', ENCODERS, value, features=size)
      elif key == 'encoders':
        fields[key] = {
          name: self._module('encoder', ENCODERS, value[name]) for name in value
        }
      elif key == 'fusion' and isinstance(value, Mapping):
        fields[key] = self._fusion(value)
      elif key == 'network':
        fields[key] = self._model(value, {}, noise)
      elif key == 'experts':
        own = {name: self._model(value[name], {}, noise) for name in value}
        fields[key] = own or dict(experts)
      elif key != 'gate':
        fields[key] = value
    if 'gate' in entry:
      fields['gate'] = self._gates(entry, fields, noise)
    paths, found = fields.get('paths'), fields.get('experts', {})
    if paths is not None and sorted(paths) != sorted(found):
      raise ConfigError(
        f'model.paths={tuple(paths)} must name the experts {sorted(found)}.'
      )
    if 'gate_inputs' in fields:
      fields['confidence'] = self._task.confidence
      self._check_gate(fields['gate_inputs'], found)
    return self._module('model', MODELS, fields)

  def _check_gate(self, names, experts: Mapping[str, nn.Module]) -> None:
    """That what the gate would read of experts is there."""
    for name in names:
      if not (of_expert := expert_input(name)):
        continue
      kind, path = of_expert
      if path not in experts:
        raise ConfigError(
          f'model.gate_inputs: {name!r} is of no expert; they are {sorted(experts)}.'
        )
      expert = experts[path]
      # A cached expert has what its model has, which was checked before.
      headless = not (hasattr(expert, 'head') or isinstance(expert, Precomputed))
      if kind == 'hidden' and headless:
        raise ConfigError(
          f'model.gate_inputs: expert {path!r} has no hidden state of its own; read '
          f"'logits/{path}' or 'confidence/{path}'."
        )
      if kind == 'confidence' and self._spec.task == 'regression':
        raise ConfigError(
          f'model.gate_inputs: a regression has no {name!r}; read '
          f"'hidden/{path}' or 'logits/{path}'."
        )

  def _gates(self, entry, fields, noise: bool) -> nn.Module | tuple[nn.Module, ...]:
    """The gate of a model, or its gates, with an output for each choice."""
    if 'paths' in fields:
      return self._gate(entry['gate'], len(fields['paths']), noise)
    stages = fields['network'].stages
    if _lookup('model', MODELS, entry.get('name', '')) is LocallyGatedStages:
      return tuple(self._gate(entry['gate'], 2, noise) for _ in range(stages))
    # There is an exit behind each stage, and one before the first.
    return self._gate(entry['gate'], stages + 1, noise)

  def _gate(self, entry, size: int, noise: bool) -> nn.Module:
    parts = {part: dict(entry[part]) for part in ('encoder', 'head')}
    head = _lookup('head', ENCODERS, parts['head'].get('name', ''))
    # The head decides; one without a layer of its own leaves that to the encoder.
    own = 'features' in {field.name for field in dataclasses.fields(head)}
    parts['head' if own else 'encoder']['features'] = size
    modules = {part: self._module(part, ENCODERS, parts[part]) for part in parts}
    return self._module('gate', GATES, {'name': entry['name']}, noise=noise, **modules)

  def _fusion(self, entry) -> nn.Module:
    """A fusion, after the one inside it."""
    inner = {'fusion': self._fusion(entry['fusion'])} if 'fusion' in entry else {}
    fusion = self._module('fusion', FUSIONS, entry, **inner)
    tasks = getattr(fusion, 'tasks', (self._spec.task,))
    if self._spec.task not in tasks:
      raise ConfigError(
        f'fusion {entry["name"]!r} is of {" or ".join(tasks)} logits; dataset '
        f'{self._spec.name!r} is {self._spec.task}.'
      )
    return fusion

  def _module(self, kind: str, table, entry, **fixed) -> nn.Module:
    cls = _lookup(kind, table, entry.get('name', ''))
    known = {'axis_name': self._axis_name, 'num_outputs': self._spec.num_outputs}
    fields = {f.name for f in dataclasses.fields(cls)}
    fixed |= {name: known[name] for name in known.keys() & fields}
    return _make(kind, table, entry, **fixed)

  def _check_inputs(self, name: str, names: tuple[str, ...]) -> None:
    if unknown := sorted(set(names) - set(self._spec.modalities)):
      raise ConfigError(
        f'{name}: the model reads {unknown}, but dataset {self._spec.name!r} has '
        f'the modalities {sorted(self._spec.modalities)}.'
      )

  def _traced(self, name, entry, noise, model, paths, experts) -> tuple:
    """Variables and an example, and costs and outputs of it.

    Tracing a deep network takes seconds, and stages that go on from one another have
    the same one: each is traced once.
    """
    key = json.dumps([name if experts else '', noise, entry.to_dict()], sort_keys=True)
    if key not in self._traces:
      run, variables, inputs = self._abstract(name, model)
      whole = jax.jit(run('__call__'))  # Traced once for all who ask.
      costs = self._costs(whole, run, variables, inputs, paths)
      outputs = jax.eval_shape(whole, variables, inputs)
      self._traces[key] = variables, inputs, costs, outputs
    return self._traces[key]

  def _abstract(self, name: str, model: nn.Module) -> tuple[Callable, Any, Modalities]:
    """What runs a method of the model on one example, its variables, the example."""
    inputs = example_inputs(self._spec)
    options = {'train': False, 'hparams': _HPARAMS}
    try:
      variables = jax.eval_shape(
        lambda: model.init(jax.random.key(0), inputs, **options)
      )
    except ValueError as error:
      raise ConfigError(f'{name}: {error}') from error

    def run(method, *args):
      return lambda variables, inputs: model.apply(
        variables, *args, inputs, method=method, **options
      )

    return run, variables, inputs

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
    target = loss.confidence_target
    for term in loss.schedules:
      _lookup('term in loss.schedules:', LOSSES, term)
    _one_of(f'{name}: loss.confidence_target', target, ('detached', 'compat'))
    _one_of(
      f'{name}: loss.confidence_error', loss.confidence_error, ('squared', 'absolute')
    )
    _one_of(f'{name}: loss.rank_margin', loss.rank_margin, ('paper', 'repo', 'none'))
    _one_of(f'{name}: loss.rank_history', loss.rank_history, ('mean', 'sum'))
    _one_of(f'{name}: loss.rank_update', loss.rank_update, ('before', 'after'))
    if loss.annealing_epochs <= 0:
      raise ConfigError(
        f'{name}: loss.annealing_epochs={loss.annealing_epochs} must be greater than 0.'
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
        detach=target == 'detached',
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
    if not terms:
      raise ConfigError(f'{name}: every weight in loss is 0; nothing would be trained.')
    return terms

  def _path_prices(
    self, name, loss, model, macs, variables, inputs
  ) -> dict[str, float]:
    """What the budget term charges by path."""
    _one_of(f'{name}: loss.budget_unit', loss.budget_unit, ('macs', 'original'))
    if loss.budget_free < 0:
      raise ConfigError(
        f'{name}: loss.budget_free={loss.budget_free} must not be negative.'
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
    self,
    name: str,
    outputs: Outputs,
    terms: Mapping[str, LossTerm],
    side_scales: Sequence[int],
  ) -> None:
    """That the outputs of one example, and the task, have what every term reads."""
    batch = {
      'label': example_label(self._spec),
      'mask': jnp.ones(1),
      'index': jnp.arange(1),
    }

    def run(outputs):
      # They are there in training alone.
      sides = {f'down_{k}': outputs.logits[:, ::k, ::k] for k in side_scales}
      outputs = dataclasses.replace(outputs, aux={**outputs.aux, **sides})
      for term in terms.values():
        term.apply(outputs, batch, _HPARAMS, term.init(1), None)

    try:
      jax.eval_shape(run, outputs)
    except ValueError as error:
      raise ConfigError(f'{name}: {error}') from error


def example_inputs(spec: DataSpec) -> Mapping[str, Any]:
  """A batch of one example, all zeros, with the shapes of `spec`."""
  inputs = {}
  for name, modality in spec.modalities.items():
    array = jnp.zeros((1, *modality.shape), jnp.float32)
    if modality.sequence:
      length = jnp.full((1,), modality.shape[0], jnp.int32)
      inputs[name] = {'steps': array, 'length': length}
    else:
      inputs[name] = array
  return inputs


def example_label(spec: DataSpec) -> jax.Array:
  """The label of one example, all zeros, with shape and type of `spec`."""
  if spec.task == 'segmentation':
    height, width = next(iter(spec.modalities.values())).shape[:2]
    return jnp.zeros((1, height, width), jnp.uint8)
  shape = (1, spec.num_outputs) if spec.task == 'multilabel' else (1,)
  return jnp.zeros(shape, jnp.int32 if spec.task == 'multiclass' else jnp.float32)


def _schedule(entry: ConfigDict, epochs: int, steps_per_epoch: int) -> optax.Schedule:
  if entry.name == 'one_cycle':
    top, whole = entry.init_value, round(entry.epochs or epochs)
    if entry.warmup:
      raise ConfigError(
        f'warmup={entry.warmup}: a one_cycle schedule warms up by itself; set it to 0.'
      )
    return one_cycle(top / 25, top, entry.end_value, whole, steps_per_epoch)
  return make_schedule(
    entry.name,
    entry.init_value,
    entry.end_value,
    round((entry.epochs or epochs - entry.warmup) * steps_per_epoch),
    round(entry.warmup * steps_per_epoch),
  )


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
  cycle = config.optimizer.cycle_momentum
  _one_of('optimizer.cycle_momentum', cycle, ('none', 'compat'))
  if cycle == 'none':
    return config.optimizer.momentum
  return one_cycle(0.95, 0.85, 0.95, config.epochs, steps_per_epoch)


def _check_temperature(name: str, entry: ConfigDict) -> None:
  """That the gate's logits are never divided by 0 or less."""
  if entry.warmup > 0:
    raise ConfigError(
      f'{name}: gate.temperature.warmup={entry.warmup} starts from a temperature of 0; '
      'set it to 0, and give the first temperature as gate.temperature.init_value.'
    )
  used = ('init_value',) if entry.name == 'constant' else ('init_value', 'end_value')
  for key in used:
    if not entry[key] > 0:
      raise ConfigError(
        f'{name}: gate.temperature.{key}={entry[key]} must be greater than 0; a small '
        'one, such as 0.1, makes soft weights almost hard.'
      )


def _schedules(config: ConfigDict, steps_per_epoch: int) -> dict[str, optax.Schedule]:
  """What varies by step: the gate's temperature and hardness, and the weights."""
  hard_from = round(config.gate.soft_epochs * steps_per_epoch)
  hard_mode = config.gate.mode.endswith('straight_through')
  schedules = {
    'gate_temperature': _schedule(
      config.gate.temperature, config.epochs, steps_per_epoch
    ),
    'gate_hard': lambda step: jnp.asarray(hard_mode & (step >= hard_from)),
    'evidential_annealing': lambda step: jnp.minimum(
      (step // steps_per_epoch) / config.loss.annealing_epochs, 1.0
    ),
  }
  for name in LOSSES:
    schedules[f'weight_{name}'] = _weight(config, name, steps_per_epoch)
  return schedules


def _weight(config: ConfigDict, term: str, steps_per_epoch: int) -> optax.Schedule:
  """The weight of a term of the objective by step."""
  if term not in config.loss.schedules:
    return optax.constant_schedule(config.loss[term])
  factor = _schedule(config.loss.schedules[term], config.epochs, steps_per_epoch)
  return lambda step: config.loss[term] * factor(step)


def _one_of(key: str, value: str, choices: tuple[str, ...]) -> None:
  if value not in choices:
    raise ConfigError(f'{key}={value!r}; expected one of {sorted(choices)}.')
