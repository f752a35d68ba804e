"""Stages: what is frozen stays, what is cached changes nothing, seeds are separate."""

import functools
import json
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdyn import build
from jdyn.data.order import train_rows
from jdyn.data.pipeline import assemble
from jdyn.evaluators.predictions import Predictions
from jdyn.models.gated_mixture import GatedMixture
from jdyn.optimizer import make_optimizer
from jdyn.training import loop, variables
from jdyn.training.programs import hparams_at
from jdyn.training.state import init_state
from jdyn.training.step import train_step
from tests import toys

EXPERTS = ('joint', 'text')


def _lines(workdir, stage, split):
  lines = toys.read_lines(workdir / 'stages' / stage / 'metrics.jsonl')
  return [line for line in lines if line['split'] == split]


def _result(workdir, stage='main'):
  return json.loads((workdir / 'stages' / stage / 'result.json').read_text())


def _best(workdir, config, stage='main'):
  """The variables that a stage is for, `[S, ...]`."""
  built = build.find_stage(build.stage(config, toys.SPEC), stage)
  folder = workdir / 'stages' / stage
  return variables.load_best(folder, built, toys.SPEC, config.num_seeds)


@pytest.fixture(scope='module')
def finished():
  """Finished runs, by what distinguishes them, for other tests to look at."""
  return {}


@pytest.fixture
def frozen(train, finished, tmp_path_factory):
  """A run whose gate is trained on the cached outputs of frozen experts."""
  if 'frozen' not in finished:
    config = toys.stages(
      steps_per_call=1,
      loss__budget=0.1,
      gate__mode='soft',
      model__gate_inputs=('hidden/text', 'confidence/text', 'image'),
    )
    workdir = tmp_path_factory.mktemp('finished') / 'frozen'
    train(config, workdir)
    finished['frozen'] = config, workdir
  return finished['frozen']


@pytest.fixture
def retrain(train, frozen, tmp_path):
  """Trains the last stage anew, on the experts of the run `frozen`."""

  def run(config):
    workdir = tmp_path / 'retrained'
    for path in EXPERTS:
      shutil.copytree(frozen[1] / 'stages' / path, workdir / 'stages' / path)
    return train(config, workdir)

  return run


class _InEvaluation(nn.Module):
  """A model in evaluation mode, whatever it is asked for."""

  model: nn.Module

  def __call__(self, inputs, *, train, hparams):
    del train
    return self.model(inputs, train=False, hparams=hparams)


def test_cached_experts_train_the_gate_as_uncached_ones_do(frozen):
  """Against the whole model with its experts in evaluation mode, step by step."""
  config, workdir = frozen
  stage = build.stage(config, toys.SPEC)
  model = GatedMixture(
    experts={path: _InEvaluation(stage.model.experts[path]) for path in EXPERTS},
    paths=stage.model.paths,
    gate=stage.model.gate,
    gate_inputs=stage.model.gate_inputs,
    confidence=stage.task.confidence,
  )
  train = toys.dataset().splits['train']
  steps_per_epoch = -(-len(train) // stage.batch_size)
  schedules = stage.make_schedules(steps_per_epoch)
  tx = make_optimizer(
    config.optimizer.name,
    lambda step: config.optimizer.learning_rate.init_value,
    weight_decay=config.optimizer.weight_decay,
    clip_norm=config.optimizer.clip_norm,
    expert_scale=0.0,
  )
  options = dict(model=model, tx=tx, terms=stage.terms)
  state = init_state(
    jnp.uint32(0),
    assemble(train, np.arange(1))['inputs'],
    hparams=hparams_at(schedules, jnp.int32(0)),
    num_examples=len(train),
    **options,
  )
  for path in EXPERTS:
    expert = variables.for_seed(_best(workdir, config, path), 0)
    state.params[f'experts_{path}'] = {'model': expert['params']}
    if 'batch_stats' in expert:
      state.collections['batch_stats'][f'experts_{path}'] = {
        'model': expert['batch_stats']
      }
  step = jax.jit(functools.partial(train_step, schedules=schedules, **options))
  steps = stage.epochs * steps_per_epoch
  losses = []
  for rows in train_rows(0, len(train), stage.batch_size, 0, steps):
    state, metrics = step(state, assemble(train, rows))
    losses.append(metrics['loss'])
  logged = [line['loss'][0] for line in _lines(workdir, 'main', 'train')]
  np.testing.assert_allclose(logged, losses, rtol=1e-5)


def test_the_whole_model_predicts_with_the_experts_it_was_trained_on(frozen):
  _, workdir = frozen
  for split in ('valid', 'test'):
    own = workdir / 'stages' / 'main' / f'predictions_{split}.npz'
    whole = Predictions.load(own)
    for path in EXPERTS:
      alone = Predictions.load(workdir / 'stages' / path / f'predictions_{split}.npz')
      np.testing.assert_allclose(whole.expert_logits[path], alone.logits, atol=1e-6)
    weights = np.stack([whole.weights[path] for path in EXPERTS], axis=-1)
    assert np.isin(weights, (0, 1)).all()  # Trained soft, deployed hard.
    mixed = sum(
      whole.weights[path][..., None] * whole.expert_logits[path] for path in EXPERTS
    )
    np.testing.assert_allclose(whole.logits, mixed, atol=1e-6)
  result = _result(workdir)
  macs = result['macs']['paths']
  shares = result['splits']['test']['usage']
  want = sum(shares[path][0] * macs[path] for path in EXPERTS)
  assert result['splits']['test']['macs'] == [pytest.approx(want)]
  assert max(macs.values()) < result['macs']['total']


def test_frozen_experts_do_not_move(frozen):
  config, workdir = frozen
  whole = _best(workdir, config)
  for path in EXPERTS:
    expert = _best(workdir, config, path)
    for collection, tree in expert.items():
      jax.tree.map(
        np.testing.assert_array_equal, whole[collection][f'experts_{path}'], tree
      )


def test_finished_stages_are_skipped(train, frozen):
  config, workdir = frozen
  files = [path for path in (workdir / 'stages').rglob('*') if path.is_file()]
  before = {path: path.stat().st_mtime_ns for path in files}
  train(config, workdir)
  assert {path: path.stat().st_mtime_ns for path in files} == before


def _moved(whole, config, frozen_run, collection, path):
  """The greatest change of an expert's variables since its own stage."""
  expert = _best(frozen_run[1], config, path)[collection]
  changes = jax.tree.map(
    lambda a, b: np.abs(a - b).max(), whole[collection][f'experts_{path}'], expert
  )
  return max(jax.tree.leaves(changes))


@pytest.mark.parametrize(
  ('freeze', 'weights_move'), [('none', True), ('compat', False)]
)
def test_experts_that_are_not_cached(retrain, frozen, freeze, weights_move):
  """`none` tunes them; `compat` fixes weights alone, as the original's --freeze."""
  config = toys.stages(freeze=freeze)
  whole = _best(retrain(config), config)
  for path in EXPERTS:
    moved = _moved(whole, config, frozen, 'params', path)
    assert (moved > 1e-5) if weights_move else (moved == 0)
  assert _moved(whole, config, frozen, 'batch_stats', 'joint') > 1e-4


def test_an_average_of_frozen_experts_has_nothing_to_train(retrain):
  config = toys.stages()
  config.model = {
    'name': 'decision_fusion',
    'fusion': {'name': 'average'},
    'experts': {},
  }
  workdir = retrain(config)
  predictions = Predictions.load(workdir / 'stages' / 'main' / 'predictions_test.npz')
  mean = np.mean([predictions.expert_logits[path] for path in EXPERTS], axis=0)
  np.testing.assert_allclose(predictions.logits, mean, atol=1e-6)


def test_experts_never_see_what_the_gate_is_trained_on(train, monkeypatch):
  seen = {}

  def record(stage, splits, experts, context):
    del experts, context
    seen[stage.name] = splits

  monkeypatch.setattr(loop, 'train_stage', record)
  monkeypatch.setattr(loop.variables, 'load_best', lambda *args: {})
  dataset = toys.dataset()
  train(toys.stages(holdout=0.25), dataset=dataset)
  every = set(dataset.splits['train'].ids)
  gate, *experts = (set(seen[name]['train'].ids) for name in ('main', *EXPERTS))
  assert len(gate) == 11  # A quarter of 44.
  assert experts == [every - gate] * 2
  for splits in seen.values():
    np.testing.assert_array_equal(splits['valid'].ids, dataset.splits['valid'].ids)
  seen.clear()
  train(toys.stages(), 'without', dataset)
  assert {len(splits['train']) for splits in seen.values()} == {44}


def test_a_seed_among_many_is_that_seed_alone(train):
  """Data order, initial weights, dropout, cached logits and selection."""
  options = dict(gate__mode='gumbel_straight_through', loss__budget=0.1)
  many = train(toys.stages(num_seeds=3, **options), 'many')
  one = train(toys.stages(seed=2, **options), 'one')
  for stage in ('text', 'joint', 'main'):
    for split in ('train', 'valid'):
      lines = zip(_lines(many, stage, split), _lines(one, stage, split), strict=True)
      for got, want in lines:
        values = {k: v for k, v in want.items() if isinstance(v, list)}
        assert values
        for name, value in values.items():
          np.testing.assert_allclose(got[name][2], value[0], rtol=1e-4, atol=1e-5)
    folders = [workdir / 'stages' / stage for workdir in (many, one)]
    got, want = (Predictions.load(f / 'predictions_test.npz') for f in folders)
    np.testing.assert_allclose(got.logits[2], want.logits[0], atol=1e-4)
    assert np.abs(got.logits[0] - got.logits[2]).max() > 1e-3
    assert _result(many, stage)['best_epoch'][2] == _result(one, stage)['best_epoch'][0]


def test_seeds_stop_on_their_own(train, caplog):
  patience, num_seeds = 1, 4
  config = toys.config(
    toys.unimodal('image', toys.mlp(16, features=8)),
    num_seeds=num_seeds,
    epochs=14,
    patience=patience,
    optimizer__learning_rate__init_value=0.05,
    optimizer__learning_rate__end_value=0.05,
  )
  with caplog.at_level('INFO'):
    workdir = train(config)
  scores = np.array([line['accuracy'] for line in _lines(workdir, 'main', 'valid')])
  best, stopped = [], []
  for seed in range(num_seeds):
    kept, since = 0, 0
    for epoch, score in enumerate(scores[:, seed], start=1):
      better = kept == 0 or score > scores[kept - 1, seed]
      kept, since = (epoch, 0) if better else (kept, since + 1)
      if since > patience:
        break
    best.append(kept)
    stopped.append(epoch)
  assert _result(workdir)['best_epoch'] == best
  assert len(set(stopped)) > 1, 'the seeds of this test must stop at different epochs'
  assert len(scores) == max(stopped) < config.epochs
  assert f'Stage main stops after epoch {len(scores)} of 14: no better ' in caplog.text
  test = Predictions.load(workdir / 'stages' / 'main' / 'predictions_valid.npz')
  accuracy = (test.logits.argmax(-1) == test.label).mean(axis=1)
  np.testing.assert_allclose(
    accuracy, [scores[epoch - 1, seed] for seed, epoch in enumerate(best)], rtol=1e-6
  )


def test_the_objective_is_the_loss_and_the_cost(frozen):
  """With hard gates: what `select='objective'` compares between epochs."""
  config, workdir = frozen
  macs = _result(workdir)['macs']['paths']
  for line in _lines(workdir, 'main', 'valid'):
    cost = sum(line[f'usage/{path}'][0] * macs[path] for path in EXPERTS)
    want = line['loss'][0] + config.loss.budget * cost / max(macs.values())
    assert line['objective'] == [pytest.approx(want, rel=1e-5)]
