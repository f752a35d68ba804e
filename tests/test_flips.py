"""Damage to any file is named, and never becomes another value.

This is the short version of `python -m tests.faults flips`.
"""

import random
import shutil

import pytest

import jdyn
from jdyn.data.dataset import DataError
from jdyn.training.checkpoint import CheckpointError
from tests.faults import flips

OF_EACH_KIND = 3


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('flips')


@pytest.fixture(scope='module')
def targets(folder, compile_fast):
  return flips.make_targets(folder)


@pytest.mark.parametrize('damage', [flips.flip, flips.cut])
def test_damage_is_named(targets, damage):
  seed = random.randrange(10**6)
  print(f'files and places drawn with seed {seed}')
  chance = random.Random(seed)
  by_kind = {}
  for target in chance.sample(targets, len(targets)):
    by_kind.setdefault(target.kind, []).append(target)
  few = [target for same in by_kind.values() for target in same[:OF_EACH_KIND]]
  rows = [*flips.damage_all(few, damage, len(few), chance)]
  assert len(rows) == len(by_kind)
  assert [row for row in rows if row.lost] == []


def test_a_run_goes_on_behind_a_damaged_checkpoint(targets, folder, tmp_path, caplog):
  """From the older one, and ends bit by bit as if nothing had been damaged."""
  shutil.copytree(folder / 'run' / 'begun', tmp_path / 'run')
  main = tmp_path / 'run' / 'stages' / 'main'
  steps = sorted(int(path.stem) for path in (main / 'checkpoints/manifests').iterdir())
  files = [*(main / 'checkpoints' / 'steps' / str(steps[1])).rglob('*')]
  victim = max(files, key=lambda path: path.stat().st_size)
  victim.write_bytes(flips.flip(victim.read_bytes(), random.Random(0)))
  flips.train_small(tmp_path / 'run')
  assert f'Checkpoint {steps[1]} is damaged and not used: {victim}' in caplog.text
  for name in ('result.json', 'metrics.jsonl', 'predictions_test.npz'):
    undamaged = folder / 'run' / 'ended' / 'stages' / 'main' / name
    assert (main / name).read_bytes() == undamaged.read_bytes()


@pytest.mark.parametrize(
  'name',
  [
    'config.json',
    'data.json',
    'stages/main/result.json',
    'stages/main/predictions_valid.npz',
    'stages/main/metrics.jsonl',
  ],
)
def test_no_run_with_a_damaged_file_is_loaded(targets, folder, name):
  file = folder / 'run' / 'ended' / name
  whole = file.read_bytes()
  try:
    file.write_bytes(flips.flip(whole, random.Random(1)))
    with pytest.raises(DataError, match=rf'{name}: damaged'):
      jdyn.load(folder / 'run' / 'ended')
  finally:
    file.write_bytes(whole)


def test_what_to_do_about_damaged_variables_is_said(targets, folder):
  best = folder / 'run' / 'ended' / 'stages' / 'main' / 'best'
  files = [path for path in best.rglob('*') if path.is_file()]
  file = max(files, key=lambda path: path.stat().st_size)
  whole = file.read_bytes()
  try:
    file.write_bytes(flips.cut(whole, random.Random(2)))
    again = 'or delete .*stages/main and repeat the training'
    with pytest.raises(CheckpointError, match=f'(?s){file}.*{again}'):
      jdyn.load(folder / 'run' / 'ended')
  finally:
    file.write_bytes(whole)


def _silent():
  return ''


def _of_another_kind():
  raise KeyError('model')


def _nameless():
  raise DataError('something is damaged')


@pytest.mark.parametrize(
  ('read', 'problem'),
  [
    (_silent, 'not named'),
    (_of_another_kind, 'KeyError'),
    (_nameless, "said 'something"),
  ],
)
@pytest.mark.parametrize('damage', [flips.flip, flips.cut])
def test_the_harness_sees_what_is_lost(tmp_path, damage, read, problem):
  file = tmp_path / 'it.json'
  file.write_bytes(b'{}')
  target = flips.Target('kind', file, 'it.json', read)
  (row,) = flips.damage_all([target], damage, 3, random.Random(0))
  assert (row.tried, row.survived, row.lost) == (3, 0, 3)
  assert problem in row.note
  assert file.read_bytes() == b'{}'


def test_every_trial_damages_the_file(tmp_path):
  file, seen = tmp_path / 'it.json', []
  file.write_bytes(b'{}')

  def read():
    seen.append(file.read_bytes())
    return 'it.json: damaged'

  target = flips.Target('kind', file, 'it.json', read)
  for damage in (flips.flip, flips.cut):
    (row,) = flips.damage_all([target], damage, 20, random.Random(0))
    assert row.survived == 20
  assert len(seen) == 40
  assert b'{}' not in seen
