"""What solvers did: in predictions, costs, scores, records, and of a real run."""

import csv
import dataclasses
import json
import logging

import numpy as np
import pytest

from jdyn.data.dataset import Split
from jdyn.evaluators.predictions import (
  Predictions,
  convergence_warning,
  executed_macs,
  from_outputs,
  macs_by_path,
  reroute,
  score_all,
)
from jdyn.evaluators.records import write_records
from jdyn.inference import TrainedRun
from jdyn.tasks import Multiclass
from jdyn.typing import Outputs
from tests import toys

SEEDS, SIZE, CLASSES, STEPS = 2, 6, 3, 5
PATHS = {'in': 100, 'joint': 700, 'inner': 500}
TOTAL = 1200
TASK = Multiclass(num_outputs=CLASSES)
RNG = np.random.default_rng(0)
UNSPENT = RNG.integers(1, 50, size=(3, SEEDS, SIZE)).astype(np.float32)
CHOSEN = RNG.integers(3, size=(SEEDS, SIZE))
LOGITS = RNG.normal(size=(SEEDS, SIZE, CLASSES)).astype(np.float32)
WEIGHTS = {
  'hard': {
    path: np.equal(CHOSEN, k).astype(np.float32) for k, path in enumerate(PATHS)
  },
  'soft': {path: np.full((SEEDS, SIZE), 1 / 3, np.float32) for path in PATHS},
  'plain': {},
}


def solved(block):
  """What a solver says, as a model's aux has it."""
  steps = RNG.integers(1, STEPS + 1, size=(SEEDS, SIZE)).astype(np.float32)
  found = {
    'steps': steps,
    'residual': RNG.random((SEEDS, SIZE)).astype(np.float32),
    'converged': (steps < STEPS).astype(np.float32),
    'trace': RNG.random((SEEDS, SIZE, STEPS)).astype(np.float32),
  }
  return {f'{block}/{name}': value for name, value in found.items()}


def predictions(kind):
  """Of a model without paths, or of a gate over three, two of them with solvers."""
  solver = solved('solver/fused') | solved('solver/text')
  unspent = {'': UNSPENT[0]}
  if kind != 'plain':
    solver = solved('joint/solver/fused') | solved('inner/a/solver/fused')
    # A nested mixture has one per path of its own.
    unspent = {'joint': UNSPENT[0], 'inner/a': UNSPENT[1], 'inner/b': UNSPENT[2]}
  gated = kind != 'plain'
  return Predictions(
    ids=np.array([f'id{n}' for n in range(SIZE)]),
    label=np.arange(SIZE, dtype=np.int32) % CLASSES,
    logits=LOGITS,
    expert_logits={path: LOGITS + k for k, path in enumerate(PATHS)} if gated else {},
    weights=WEIGHTS[kind],
    about={'split': 'test'},
    gate_logits=np.zeros((SEEDS, SIZE, 3), np.float32) if gated else None,
    paths=tuple(PATHS) if gated else (),
    solver=solver,
    unspent_macs=unspent,
  )


KINDS = pytest.mark.parametrize('kind', WEIGHTS)


@KINDS
def test_file_gives_back_what_solvers_said(kind, tmp_path):
  want = predictions(kind)
  want.save(tmp_path / 'x.npz')
  got = Predictions.load(tmp_path / 'x.npz')
  for name in ('solver', 'unspent_macs'):
    assert set(getattr(got, name)) == set(getattr(want, name))
    for key, value in getattr(want, name).items():
      np.testing.assert_array_equal(getattr(got, name)[key], value)


@KINDS
def test_predictions_take_them_from_the_outputs(kind):
  want = predictions(kind)
  aux = {**want.solver, 'jacobian': LOGITS, 'informativeness/x': LOGITS}
  aux |= {f'{path}/unspent_macs'.strip('/'): x for path, x in want.unspent_macs.items()}
  aux |= {'gate_logits': want.gate_logits} if want.paths else {}
  outputs = Outputs(want.logits, want.expert_logits, want.weights, aux)
  split = Split(inputs={}, label=want.label, ids=want.ids)
  assert from_outputs(outputs, split, TASK, want.about, want.paths) == want


def test_blocks_are_named_by_path():
  plain, gated = predictions('plain'), predictions('hard')
  assert list(plain.blocks) == ['fused', 'text']
  assert list(gated.blocks) == ['inner/a/fused', 'joint/fused']
  for what in ('steps', 'residual', 'converged', 'trace'):
    want = gated.solver[f'inner/a/solver/fused/{what}']
    assert gated.blocks['inner/a/fused'][what] is want
  assert dataclasses.replace(plain, solver={}).blocks == {}


def test_executed_macs_are_less_by_what_was_not_spent():
  inner = UNSPENT[1] + UNSPENT[2]
  along = {'in': 100 + 0 * inner, 'joint': 700 - UNSPENT[0], 'inner': 500 - inner}
  hard = np.choose(CHOSEN, list(along.values()))
  want = {'plain': 1200 - UNSPENT[0], 'hard': hard, 'soft': 1200 - UNSPENT.sum(axis=0)}
  for kind, macs in want.items():
    paths = {} if kind == 'plain' else PATHS
    got = executed_macs(predictions(kind), paths, TOTAL)
    np.testing.assert_array_equal(got, macs, err_msg=kind)
    scores = score_all(predictions(kind), Multiclass(num_outputs=CLASSES), paths, TOTAL)
    assert scores['macs'] == pytest.approx(macs.mean(axis=1))
  for path, macs in macs_by_path(predictions('soft'), PATHS).items():
    np.testing.assert_array_equal(macs, along[path])


def test_rerouted_examples_keep_what_they_did_not_spend():
  at = reroute(predictions('hard'), np.full((SEEDS, SIZE), 1))
  np.testing.assert_array_equal(executed_macs(at, PATHS, TOTAL), 700 - UNSPENT[0])
  assert set(at.solver) == set(predictions('hard').solver)


def test_scores_have_steps_and_shares_by_block():
  plain = predictions('plain')
  scores = score_all(plain, Multiclass(num_outputs=CLASSES), {}, TOTAL)['solver']
  assert list(scores) == ['fused', 'text']
  for block, found in scores.items():
    steps = plain.solver[f'solver/{block}/steps']
    assert found['steps'] == pytest.approx([np.mean(one) for one in steps])
    assert found['converged'] == pytest.approx([np.mean(one < STEPS) for one in steps])
  json.dumps(scores, allow_nan=False)
  without = dataclasses.replace(plain, solver={})
  assert score_all(without, Multiclass(num_outputs=CLASSES), {}, 1)['solver'] == {}


def test_warning_names_block_share_and_remedy():
  plain = predictions('plain')
  all_did = np.ones((SEEDS, SIZE), np.float32)
  one_missed = all_did.copy()
  one_missed[1, 2] = 0

  def with_text(converged):
    found = {'solver/fused/converged': all_did, 'solver/text/converged': converged}
    return dataclasses.replace(plain, solver=plain.solver | found)

  by_split = {'valid': with_text(all_did), 'test': with_text(all_did)}
  assert convergence_warning(by_split) == ''
  by_split['test'] = with_text(one_missed)
  warning = convergence_warning(by_split)
  assert 'block text on 8.33 % of the test examples.' in warning
  assert 'Raise max_steps' in warning
  assert 'loss.jacobian' in warning
  assert 'fused' not in warning
  assert 'valid' not in warning


def test_records_have_columns_of_the_solvers(tmp_path):
  plain = predictions('plain')
  write_records(tmp_path / 'x.csv', plain, (3, 4), Multiclass(num_outputs=CLASSES))
  rows = list(csv.DictReader((tmp_path / 'x.csv').open()))
  assert len(rows) == SEEDS * SIZE
  for k, row in enumerate(rows):
    seed, n = divmod(k, SIZE)
    for block in ('fused', 'text'):
      for what in ('steps', 'converged'):
        want = plain.solver[f'solver/{block}/{what}'][seed, n]
        assert float(row[f'{what}/{block}']) == want


@pytest.mark.usefixtures('compile_fast')
def test_a_run_that_does_not_converge_says_so(train, caplog):
  identity = dict(name='identity')
  fusion = dict(name='equilibrium', features=2, cell='features', max_steps=1)
  fusion |= dict(tol=1e-30, adjoint='phantom', adjoint_steps=1)
  config = toys.config(
    dict(
      name='feature_fusion',
      encoders=dict(image=identity, text=identity),
      fusion=fusion,
      head=toys.mlp(),
    ),
    epochs=1,
  )
  with caplog.at_level(logging.WARNING, logger='jdyn'):
    workdir = train(config)
  warned = [text for text in caplog.messages if 'Not converged' in text]
  assert len(warned) == 1
  assert warned[0].startswith('Stage main: ')
  assert 'block fused on 100 % of the valid and 100 % of the test' in warned[0]
  result = json.loads((workdir / 'stages/main/result.json').read_text())
  for split in ('valid', 'test'):
    found = result['splits'][split]['solver']
    assert found == {'fused': {'steps': [1.0], 'converged': [0.0]}}
  inputs = {name: toys.split(5).inputs[name] for name in ('image', 'text')}
  aux = TrainedRun(workdir).predict(inputs).aux
  np.testing.assert_array_equal(aux['solver/fused/converged'], np.zeros(5))
  np.testing.assert_array_equal(aux['solver/fused/steps'], np.full(5, 1))
  assert aux['solver/fused/trace'].shape == (5, 1)
