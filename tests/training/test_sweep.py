"""Sweeps: one program for what may share one, and what each run leaves by itself."""

import csv
import dataclasses
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import base
from jdyn import build
from jdyn.data.dataset import DataError
from jdyn.evaluators.predictions import Predictions
from jdyn.evaluators.report.run import read_run
from jdyn.evaluators.sweep_table import SweepTable
from jdyn.evaluators.tables import label
from jdyn.inference import TrainedRun
from jdyn.metrics.interval import summarize
from jdyn.training import grid, stage, variables
from jdyn.training import sweep as sweeping
from jdyn.training.context import Preempted, StopFlag
from jdyn.training.guard import NonFiniteError
from jdyn.training.programs import MEMBERS, over_members
from jdyn.training.workdir import Lock, WorkdirError
from tests import toys
from tests.conftest import COMPILE_FAST, ROOT
from tests.evaluators.fake_run import FakeRun

EXPERTS = ('image', 'text')
AXES = {
  'loss.balance': (0.0, 0.5),
  'gate.temperature.init_value': (1.0, 4.0),
}


def _config(**options):
  """Two linear experts and a gate: it compiles fast."""
  config = toys.config(
    {**toys.LINEAR_EXPERTS, 'experts': {}},
    **{'loss__budget': 0.1, 'gate__mode': 'gumbel_straight_through', **options},
  )
  for path in EXPERTS:
    config.experts[path] = base.stage(ConfigDict(toys.unimodal(path)))
    config.experts[path].batch_size, config.experts[path].epochs = 8, 1
  return config


@pytest.fixture
def sweep(tmp_path, monkeypatch):
  """Sweeps on the toy data; returns the folder."""

  def run(config, axes=AXES, name='sweep', dataset=None, **options):
    dataset = dataset or toys.dataset()
    monkeypatch.setattr(sweeping, 'load', lambda *args, **kwargs: dataset)
    sweeping.sweep(config, axes, tmp_path / name, **options)
    return tmp_path / name

  return run


@pytest.fixture
def no_table(monkeypatch):
  """The table is tested by itself; drawing its plot takes a second."""
  monkeypatch.setattr(sweeping, 'write_table', lambda *args: None)


@pytest.fixture
def programs(monkeypatch):
  """Per training program that is built: its stage and how many variants it has."""
  built = []
  original = stage.TrainPrograms

  def record(one, *args):
    built.append((one.name, one.num_variants))
    return original(one, *args)

  monkeypatch.setattr(stage, 'TrainPrograms', record)
  return built


@pytest.mark.parametrize(
  ('axes', 'sizes'),
  [
    ({'loss.budget': (0.0, 0.1), 'loss.balance': (0.0, 0.1)}, [4]),
    ({'loss.supervised': (0.5, 1.0), 'loss.per_expert': (0.0, 1.0)}, [4]),
    ({'gate.temperature.name': ('constant', 'linear')}, [2]),
    ({'gate.soft_epochs': (0.0, 1.0), 'gate.temperature.end_value': (0.1, 1.0)}, [4]),
    ({'loss.budget': (0.0, 0.1), 'batch_size': (8, 16)}, [2, 2]),
    ({'batch_size': (8, 16), 'loss.budget': (0.0, 0.1)}, [2, 2]),
    ({'loss.budget_unit': ('macs', 'original')}, [1, 1]),
    ({'gate.mode': ('soft', 'straight_through')}, [1, 1]),
    ({'experts.text.loss.supervised': (0.5, 1.0)}, [1, 1]),
    ({'seed': (0, 1)}, [1, 1]),
  ],
)
def test_what_acts_through_hparams_shares_a_program(axes, sizes):
  groups = {}
  for variant in grid.variants(_config(), axes):
    groups.setdefault(build.program_key(variant.config), []).append(variant)
  assert [len(group) for group in groups.values()] == sizes


def test_a_merged_stage_follows_the_schedules_of_each():
  variants = grid.variants(
    _config(gate__temperature__name='linear', gate__temperature__end_value=0.5),
    {'gate.temperature.init_value': (1.0, 3.0), 'loss.balance': (0.0, 0.3)},
  )
  stages = [build.stage(variant.config, toys.SPEC) for variant in variants]
  merged = build.merge(stages)
  assert set(stages[0].terms) == {'supervised', 'budget'}
  assert set(merged.terms) == {'supervised', 'budget', 'balance'}
  assert merged.num_variants == 4
  schedules = merged.make_schedules(5)
  for v, one in enumerate(stages):
    for name, schedule in one.make_schedules(5).items():
      for step in (0, 3, 9):
        assert schedules[name](step, v) == pytest.approx(schedule(step)), name
  assert build.merge(stages[:1]) is stages[0]


@pytest.mark.parametrize(('seeds', 'variants'), [(1, 1), (2, 1), (1, 3), (2, 3)])
def test_members_share_the_examples_of_their_seed(seeds, variants):
  rng = np.random.default_rng(0)
  weights = rng.normal(size=(seeds * variants, 4)).astype(np.float32)
  data = {'x': rng.normal(size=(7, seeds, 4)).astype(np.float32)}
  rows = rng.integers(7, size=(seeds, 5))

  def member(weight, data, rows):
    return data['x'][rows] @ weight

  every = over_members(member, (MEMBERS, {'x': 1}, 0), seeds, variants)
  want = [
    member(weights[s * variants + v], {'x': data['x'][:, s]}, rows[s])
    for s in range(seeds)
    for v in range(variants)
  ]
  np.testing.assert_allclose(every(weights, data, rows), want, rtol=1e-4, atol=1e-6)
  program = str(jax.make_jaxpr(every)(weights, data, rows))
  gathered = re.findall(r'f32\[([\d,]*)\] = gather', program)
  assert gathered == ['5,4' if seeds == 1 else f'{seeds},5,4']


def test_programs_follow_one_another_and_share_their_experts(sweep, programs, no_table):
  axes = {'optimizer.clip_norm': (1.0, 8.0), 'loss.budget': (0.0, 0.1)}
  workdir = sweep(_config(epochs=1), axes)
  assert programs == [('image', 1), ('text', 1), ('main', 2), ('main', 2)]
  experts = [
    (folder / 'stages' / 'text' / 'result.json').read_bytes()
    for folder in workdir.glob('optimizer*')
  ]
  assert len(experts) == 4
  assert len(set(experts)) == 1


@pytest.mark.parametrize(('together', 'sizes'), [(0, [5]), (2, [2, 2, 1]), (9, [5])])
def test_a_program_can_be_bounded(sweep, no_table, monkeypatch, together, sizes):
  seen = []
  monkeypatch.setattr(
    sweeping, '_train_group', lambda group, everyone: seen.append(len(group))
  )
  axes = {'loss.budget': (0.0, 0.1, 0.2, 0.3, 0.4)}
  sweep(_config(), axes, together=together)
  assert seen == sizes


def test_an_expert_that_differs_is_trained_anew(sweep, programs, no_table):
  axes = {'experts.text.optimizer.clip_norm': (1.0, 8.0)}
  sweep(_config(epochs=1), axes)
  assert [name for name, _ in programs] == ['image', 'text', 'main', 'text', 'main']


def _best(workdir, config, name='main'):
  built = build.find_stage(build.stage(config, toys.SPEC), name)
  folder = workdir / 'stages' / name
  return variables.load_best(folder, built, toys.SPEC, config.num_seeds)


def _assert_same_run(got, want, config):
  """Whatever `want` left by itself, `got` left in a sweep."""
  for name in ('config.json', 'data.json'):
    assert json.loads((got / name).read_text()) == json.loads((want / name).read_text())
  for name in (*EXPERTS, 'main'):
    here, there = (workdir / 'stages' / name for workdir in (got, want))
    lines = [toys.read_lines(folder / 'metrics.jsonl') for folder in (here, there)]
    for one, other in zip(*lines, strict=True):
      assert one.keys() == other.keys()
      for key, value in other.items():
        if isinstance(value, list):
          np.testing.assert_allclose(one[key], value, rtol=1e-4, atol=1e-5)
        else:
          assert one[key] == value
    one, other = (
      json.loads((folder / 'result.json').read_text()) for folder in (here, there)
    )
    assert one.keys() == other.keys()
    for key in ('best_epoch', 'seeds', 'macs', 'parameters', 'select', 'origin'):
      assert one[key] == other[key]
    for key, value in other['hparams'].items():
      np.testing.assert_allclose(one['hparams'][key], value, rtol=1e-6)
    for split in ('valid', 'test'):
      one, other = (
        Predictions.load(folder / f'predictions_{split}.npz')
        for folder in (here, there)
      )
      assert one.paths == other.paths
      np.testing.assert_allclose(one.logits, other.logits, atol=1e-4)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
      _best(got, config, name),
      _best(want, config, name),
    )


@pytest.mark.parametrize(
  ('options', 'compared'),
  [
    # Some variants stop before others, and their logs with them.
    (dict(num_seeds=2, epochs=4, patience=0, select='objective'), (0, 3)),
    (dict(num_seeds=2, epochs=1, freeze='none'), (3,)),
  ],
  ids=['frozen', 'tuned'],
)
def test_a_variant_is_what_it_would_be_by_itself(
  sweep, train, programs, no_table, options, compared
):
  options = dict(optimizer__learning_rate__init_value=0.01, **options)
  workdir = sweep(_config(**options))
  assert programs == [('image', 1), ('text', 1), ('main', 4)]
  lengths = set()
  variants = grid.variants(_config(**options), AXES)
  for variant in (variants[i] for i in compared):
    alone = train(variant.config, f'alone {variant.name}')
    _assert_same_run(workdir / variant.name, alone, variant.config)
    log = workdir / variant.name / 'stages' / 'main' / 'metrics.jsonl'
    lengths.add(len(toys.read_lines(log)))
  if options.get('patience') == 0:
    assert len(lengths) > 1, 'the variants of this test must stop at different epochs'


@pytest.fixture(scope='module')
def fed():
  """Logits of a sweep, by how it was fed; the plain one is run once."""
  return {}


@pytest.mark.parametrize(
  'options',
  [dict(parallel='shard_map'), dict(parallel='pmap'), dict(feed='host')],
  ids=['shard_map', 'pmap', 'host'],
)
def test_members_train_the_same_however_they_are_fed(sweep, no_table, fed, options):
  def logits(**own):
    axes = {'loss.budget': (0.0, 0.5)}
    workdir = sweep(_config(num_seeds=2, **own), axes, f'sweep {len(own)}')
    return {
      name: Predictions.load(
        workdir / name / 'stages' / 'main' / 'predictions_test.npz'
      ).logits
      for name in ('loss.budget=0', 'loss.budget=0.5')
    }

  if 'plain' not in fed:
    fed['plain'] = logits()
  got = logits(**options)
  for name, want in fed['plain'].items():
    np.testing.assert_allclose(got[name], want, atol=1e-4)


class _StopAfter(StopFlag):
  """As if SIGTERM came after so many compiled calls."""

  def __init__(self, calls):
    self._left = calls
    super().__init__()

  @property
  def set(self):
    self._left -= 1
    return self._left < 0

  @set.setter
  def set(self, value):
    pass


def _files(workdir):
  """What a sweep leaves of its variants, by name, and the table."""
  paths = [*workdir.rglob('metrics.jsonl'), *workdir.rglob('result.json')]
  paths += [*workdir.rglob('predictions_*.npz'), *workdir.rglob('results.csv')]
  return {str(path.relative_to(workdir)): path.read_bytes() for path in paths}


def test_a_sweep_that_was_stopped_ends_as_one_that_was_not(
  sweep, programs, monkeypatch
):
  config = _config(num_seeds=2, steps_per_call=3)  # Two calls per epoch.
  want = _files(sweep(config, name='undisturbed'))
  # In the second expert, and in the first and in the second epoch of the gate.
  for calls in (2, 1, 1):
    monkeypatch.setattr(sweeping, 'StopFlag', lambda n=calls: _StopAfter(n))
    with pytest.raises(Preempted, match='The same command goes on from there'):
      sweep(config, name='stopped')
  monkeypatch.setattr(sweeping, 'StopFlag', StopFlag)
  assert _files(sweep(config, name='stopped')) == want
  programs.clear()
  assert _files(sweep(config, name='stopped')) == want
  assert programs == []  # Finished: nothing is done again.
  assert len(want) == 4 * (3 * 4) + 1


def test_what_cannot_run_is_named_before_anything_is_trained(
  sweep, programs, no_table, monkeypatch, tmp_path
):
  axes = {'optimizer.learning_rate.init_value': (1.0, 0.0)}
  with pytest.raises(build.ConfigError, match='learning_rate: Schedule'):
    sweep(_config(optimizer__learning_rate__name='exponential'), axes)
  with pytest.raises(build.ConfigError, match='batch_size=0: main: batch_size=0 must'):
    sweep(_config(), {'batch_size': (8, 0)}, 'other')
  assert programs == []
  assert not list(tmp_path.glob('*/*/stages'))
  monkeypatch.setattr(sweeping, '_train_group', lambda group, everyone: None)
  sweep(_config(), {'batch_size': (8, 4)}, 'other')  # Its folder is not taken.


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'init_value': 0.0}, 'init_value=0.0 must be greater'),
    ({'name': 'linear', 'end_value': -0.5}, 'end_value=-0.5 must be greater'),
    ({'warmup': 1.0}, 'warmup=1.0 starts from a temperature of 0'),
  ],
)
def test_a_gate_is_never_divided_by_zero(options, message):
  config = _config(
    **{f'gate__temperature__{key}': value for key, value in options.items()}
  )
  with pytest.raises(build.ConfigError, match=f'main: gate.temperature.{message}'):
    build.stage(config, toys.SPEC)


def test_one_variant_that_diverges_does_not_lose_the_others(
  sweep, programs, monkeypatch
):
  tables = []
  monkeypatch.setattr(sweeping, 'write_table', lambda *args: tables.append(args[1:]))
  key = 'optimizer.learning_rate.init_value'
  bad, good = f'{key}=1e+38', f'{key}=0.001'
  for _ in range(2):  # The second time it goes on with what failed, and fails again.
    with pytest.raises(NonFiniteError, match=rf'1 of 2 .* {re.escape(bad)}: Non-fin'):
      sweep(_config(epochs=2), {key: (1e38, 1e-3)})
    assert tables.pop() == ({good: {key: 1e-3}}, [bad])
  assert [name for name, _ in programs] == ['image', 'text', 'main', 'main', 'main']


def test_a_variant_that_is_done_cannot_end_the_others(sweep, no_table, monkeypatch):
  update = stage.selection.update

  def stop_the_second(best, *args, **options):
    stopped = best.stopped | (jnp.arange(len(best.stopped)) == 1)
    return dataclasses.replace(update(best, *args, **options), stopped=stopped)

  monkeypatch.setattr(stage.selection, 'update', stop_the_second)
  # From the third epoch on, the second variant divides by what is 0 in float32.
  config = _config(epochs=3, gate__temperature__name='linear')
  config.gate.temperature.epochs = 2.0
  axes = {'gate.temperature.end_value': (0.5, 1e-45)}
  workdir = sweep(config, axes)
  lengths = [
    len(toys.read_lines(workdir / variant.name / 'stages' / 'main' / 'metrics.jsonl'))
    for variant in grid.variants(config, axes)
  ]
  assert lengths[0] == 3 * lengths[1]


@pytest.mark.filterwarnings('ignore:overflow')
def test_what_is_not_finite_is_named_with_its_variant(sweep, no_table):
  axes = {'loss.budget': (0.0, 1e39)}  # Infinite in float32.
  with pytest.raises(NonFiniteError, match=r"budget=1e\+39: .* stage 'main', seed 0"):
    sweep(_config(epochs=1), axes)


def test_a_folder_holds_one_sweep(sweep, train, no_table, tmp_path):
  axes = {'loss.budget': (0.0, 0.1)}
  workdir = sweep(_config(epochs=1), axes)
  with pytest.raises(WorkdirError, match='is of another run; it differs in swept'):
    sweep(_config(epochs=1), {'loss.budget': (0.0, 0.2)})
  with pytest.raises(WorkdirError, match=r'epochs \(1 before, 2 now\)'):
    sweep(_config(epochs=2), axes)
  with pytest.raises(WorkdirError, match=r'together \(0 before, 1 now\)'):
    sweep(_config(epochs=1), axes, together=1)
  with pytest.raises(WorkdirError, match='holds a sweep'):
    train(_config(epochs=1), 'sweep')
  with pytest.raises(WorkdirError, match='holds a run and no sweep'):
    sweep(_config(epochs=1), axes, 'sweep/loss.budget=0')
  lock = Lock(workdir)
  with pytest.raises(WorkdirError, match='Another process is running'):
    sweep(_config(epochs=1), axes)
  lock.release()


def test_the_table_and_the_runs_behind_it(sweep, monkeypatch):
  axes = {'loss.budget': (0.0, 0.7), 'gate.mode': ('soft', 'straight_through')}
  stand_in = dataclasses.replace(toys.dataset(), origin='synthetic stand-in')
  config = _config(num_seeds=3, epochs=1)
  tables = []
  original = sweeping.write_table
  monkeypatch.setattr(
    sweeping, 'write_table', lambda *args: tables.append(original(*args))
  )
  workdir = sweep(config, axes, dataset=stand_in)
  with open(workdir / 'results.csv', newline='') as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 4 * 3
  for row in rows:
    budget = label(float(row['config.loss.budget']))
    name = f'loss.budget={budget},gate.mode={row["config.gate.mode"]}'
    folder = workdir / name / 'stages' / 'main'
    result = json.loads((folder / 'result.json').read_text())
    seed, test = int(row['seed']), result['splits']['test']
    assert (row['origin'], int(row['n'])) == ('synthetic stand-in', test['n'])
    for score, values in test['model'].items():
      assert float(row[score]) == values[seed]
    assert float(row['macs']) == test['macs'][seed]
    for path in EXPERTS:
      assert float(row[f'usage/{path}']) == test['usage'][path][seed]
    valid = result['splits']['valid']['model']['accuracy']
    assert float(row['valid/accuracy']) == valid[seed]
    assert int(row['best_epoch']) == result['best_epoch'][seed]
  (table,) = tables
  text = table.text().splitlines()
  assert 'SYNTHETIC STAND-IN' in text[0]
  assert '4 variants, 3 seeds' in text[0]
  assert len(text) == 2 + 4 + len(EXPERTS)  # Experts that all share are there once.
  found = summarize([float(row['accuracy']) for row in rows[3:6]])
  assert f'{found.mean:.4f} ± {found.high - found.mean:.4f}' in text[3]
  page = (workdir / 'results.html').read_text()
  assert '[synthetic stand-in]' in page
  assert page.count('<svg') == 1
  assert 'href="loss.budget%3D0%2Cgate.mode%3Dsoft/"' in page
  with pytest.raises(DataError, match='this is the folder of a sweep; give one of its'):
    read_run(workdir)
  run = TrainedRun(workdir / 'loss.budget=0,gate.mode=soft')
  inputs = {name: stand_in.splits['test'].inputs[name][:3] for name in EXPERTS}
  want = Predictions.load(run.workdir / 'stages' / 'main' / 'predictions_test.npz')
  got = run.predict(inputs, seed=2)
  np.testing.assert_allclose(got.logits, want.logits[2, :3], atol=1e-5)


def test_experts_that_differ_say_in_what(tmp_path):
  axes = {'loss.budget': (0.0, 0.1), 'seed': (0, 7)}
  settings = {v.name: v.settings for v in grid.variants(_config(), axes)}
  for name, own in settings.items():
    FakeRun(seeds=(own['seed'],), examples=40 + own['seed']).write(tmp_path / name)
  runs = {name: read_run(tmp_path / name) for name in settings}
  names = [row.name for row in SweepTable(tmp_path, settings, runs).static()]
  assert names == [
    f'{path} alone (seed={seed})' for path in ('cheap', 'dear') for seed in (0, 7)
  ]


def test_values_are_read_in_the_type_of_the_key():
  config = _config()
  axes = grid.parse(
    config,
    [
      'loss.budget=0,.5,1e-3,-2',
      'epochs=3, 4',
      'freeze=eval,none',
      'experts.text.optimizer.clip_norm=1',
    ],
  )
  assert axes == {
    'loss.budget': (0.0, 0.5, 0.001, -2.0),
    'epochs': (3, 4),
    'freeze': ('eval', 'none'),
    'experts.text.optimizer.clip_norm': (1.0,),
  }
  variants = grid.variants(config, axes)
  assert len({variant.name for variant in variants}) == len(variants) == 16
  first, second = variants[:2]
  assert (
    first.name
    == 'loss.budget=0,epochs=3,freeze=eval,experts.text.optimizer.clip_norm=1'
  )
  assert (first.config.epochs, first.config.freeze) == (3, 'eval')
  assert (second.config.epochs, second.config.freeze) == (3, 'none')
  assert first.config.experts.text.optimizer.clip_norm == 1.0
  assert config.loss.budget == 0.1  # The config itself stays.
  (odd,) = grid.variants(config, {'data.root': ('a/b,c',)})
  assert odd.name == 'data.root=a%2Fb%2Cc'


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['loss.budgte=1'], 'Unknown key loss.budgte. Did you mean "loss.budget"?'),
    (['epoch=1'], 'Did you mean "epochs"?'),
    (['loss.budget.x=1'], 'loss.budget has no keys below it'),
    (['loss.budget'], 'give the values to sweep'),
    (['loss.budget=1,x'], "loss.budget='x' must be a finite number"),
    (['loss.budget=nan'], "loss.budget='nan' must be a finite number"),
    (['loss.budget=1,,2'], "loss.budget='' must be a finite number"),
    (['loss.budget=0.1,.1'], 'has the same value twice'),
    (['loss.budget=0', 'loss.budget=1'], 'is swept twice'),
    (['epochs=1.5'], "epochs='1.5' must be a whole number"),
    (['loss=1'], 'loss holds keys and no value'),
    (['model.paths=text'], 'model.paths is a tuple'),
    (['num_seeds=1,2'], 'num_seeds cannot be swept'),
    ([f'data.root={"x" * 250}'], 'Sweep fewer keys at once'),
    ([], 'Nothing to sweep'),
  ],
)
def test_a_sweep_that_cannot_be_names_its_key(arguments, message):
  with pytest.raises(grid.GridError) as error:
    grid.parse(_config(), arguments)
  assert message in str(error.value)


@pytest.mark.parametrize(
  ('argument', 'message'),
  [
    ('--sweep.config.loss.budgte=1', 'error: Unknown key loss.budgte.'),
    ('--sweep.loss.budget=1', 'swept keys start with --sweep.config.'),
    ('--config.epochs=3', 'error: Nothing to sweep'),
    ('loss.budget=3', "Unknown arguments ['loss.budget=3']"),
    ('--config.num_seeds=3', 'error: --seeds and --config.num_seeds say the same'),
  ],
)
def test_the_command_refuses_in_one_line_and_without_jax(argument, message):
  command = ['-X', 'importtime', '-m', 'jdyn.sweep', '--config']
  done = subprocess.run(
    [sys.executable, *command, 'configs/digits_dyn.py', '--seeds=2', argument],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 1
  assert message in done.stderr + done.stdout
  assert '| jax\n' not in done.stderr
  assert 'Traceback' not in done.stderr


def test_the_command_sweeps(tmp_path):
  cache = os.environ.get('JAX_COMPILATION_CACHE_DIR') or tmp_path / 'xla'
  command = [sys.executable, '-m', 'jdyn.sweep', '--config', 'configs/digits_dyn.py']
  command.append(f'--compilation_cache={cache}')
  options = [f'--workdir={tmp_path}', '--seeds=2', '--config.epochs=1']
  options += [f'--config.experts.{name}.epochs=1' for name in ('coarse', 'both')]
  options += ['--sweep.config.loss.budget=0,1e-1']
  # One device, as anybody has; the tests themselves ask for four.
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': COMPILE_FAST}
  environment['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'
  done = subprocess.run(
    [*command, *options],
    cwd=ROOT,
    env=environment,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  assert '2 variants in 1 programs' in done.stderr
  assert '[main: 2 variants x 2 seeds]' in done.stderr
  assert 'digits: 2 variants, 2 seeds' in done.stdout
  assert (tmp_path / 'loss.budget=0.1' / 'data.json').exists()
