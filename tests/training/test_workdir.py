"""A folder holds one run, and one process at a time works in it."""

import dataclasses
import json
import subprocess
import sys

import pytest

from jdyn.data.dataset import DataError
from jdyn.data.hashing import sha256_file
from jdyn.data.sealed import read_sealed
from jdyn.training.workdir import (
  Lock,
  WorkdirError,
  check_hashes,
  describe,
  naming_changes,
  read_spec,
)
from tests import toys

CONFIG = {'batch_size': 8, 'model': {'name': 'unimodal', 'hidden': (4, 2)}}

# What another process would do, without the seconds that it takes to import JAX.
OTHER_PROCESS = """
import fcntl, sys
file = open(sys.argv[1], 'a')
try:
  fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
  sys.exit(7)
"""


def _other_process(folder):
  command = [sys.executable, '-S', '-c', OTHER_PROCESS, str(folder / '.lock')]
  return subprocess.run(command, timeout=60).returncode


def test_a_folder_is_locked_while_a_run_is_in_it(tmp_path):
  folder = tmp_path / 'runs' / 'x'
  lock = Lock(folder)
  assert _other_process(folder) == 7
  with pytest.raises(WorkdirError, match='Another process is running in') as error:
    Lock(folder)
  assert str(folder) in str(error.value)
  lock.release()
  assert _other_process(folder) == 0
  Lock(folder).release()


def test_a_run_is_described_and_the_same_run_may_go_on(tmp_path):
  dataset = toys.dataset()
  describe(tmp_path, CONFIG, dataset)
  written = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
  assert set(written) == {'config.json', 'data.json', 'environment.json'}
  assert read_sealed(tmp_path / 'config.json') == json.loads(json.dumps(CONFIG))
  data = json.loads(written['data.json'])
  assert data['origin'] == 'bundled'
  assert data['sizes'] == {'train': 44, 'valid': 13, 'test': 13}
  assert data['spec']['class_names'] == ['a', 'b', 'c']
  environment = json.loads(written['environment.json'])
  assert set(environment['versions']) >= {'jax', 'flax', 'optax', 'numpy'}
  assert environment['devices']
  describe(tmp_path, CONFIG, dataset)
  assert written == {p.name: p.read_bytes() for p in tmp_path.iterdir()}


def test_the_specification_can_be_read_back(tmp_path):
  describe(tmp_path, CONFIG, toys.dataset())
  assert read_spec(tmp_path) == toys.SPEC
  with pytest.raises(WorkdirError, match='holds no run'):
    read_spec(tmp_path / 'elsewhere')


@pytest.mark.parametrize(
  ('changed', 'named'),
  [
    ({**CONFIG, 'batch_size': 9}, 'batch_size (8 before, 9 now)'),
    (
      {**CONFIG, 'model': {'name': 'unimodal', 'hidden': (4,)}},
      'model.hidden ([4, 2] before, [4] now)',
    ),
    ({**CONFIG, 'extra': 1}, 'extra (None before, 1 now)'),
    ({'batch_size': 8}, 'model'),
  ],
)
def test_another_config_is_refused_and_the_key_is_named(tmp_path, changed, named):
  describe(tmp_path, CONFIG, toys.dataset())
  with pytest.raises(WorkdirError, match='is of another run') as error:
    describe(tmp_path, changed, toys.dataset())
  assert named in str(error.value)
  assert '--workdir' in str(error.value)


def test_other_data_are_refused(tmp_path):
  describe(tmp_path, CONFIG, toys.dataset())
  other = dataclasses.replace(toys.dataset(), origin='synthetic stand-in')
  with pytest.raises(WorkdirError, match=r'data\.json is of another run.* origin'):
    describe(tmp_path, CONFIG, other)


@pytest.mark.parametrize('after', [{'a.npz': 'aa', 'b.npz': 'ff'}, {'a.npz': 'aa'}])
def test_a_changed_file_of_the_data_is_named(tmp_path, after):
  before = {'a.npz': 'aa', 'b.npz': 'bb'}
  dataset = dataclasses.replace(toys.dataset(), hashes=before)
  describe(tmp_path, CONFIG, dataset)
  check_hashes(tmp_path, before)
  with pytest.raises(WorkdirError, match=r'^b\.npz: damaged, or changed'):
    describe(tmp_path, CONFIG, dataclasses.replace(dataset, hashes=after))
  with pytest.raises(WorkdirError, match=r'^b\.npz: damaged, or changed'):
    check_hashes(tmp_path, after)


@pytest.mark.parametrize('name', ['config.json', 'data.json'])
def test_a_damaged_description_is_named(tmp_path, name):
  describe(tmp_path, CONFIG, toys.dataset())
  path = tmp_path / name
  path.write_text(path.read_text().replace('a', 'b', 1))
  with pytest.raises(DataError, match=rf'{name}: damaged.* delete .*{name} and repeat'):
    describe(tmp_path, CONFIG, toys.dataset())


def test_what_changed_is_named_where_data_cannot_be_loaded(tmp_path):
  for name in ('one', 'two'):
    (tmp_path / name).write_text(name)
  hashes = {name: sha256_file(tmp_path / name) for name in ('one', 'two')}
  run = tmp_path / 'run'
  dataset = dataclasses.replace(toys.dataset(), hashes=hashes)
  Lock(run).release()
  with pytest.raises(DataError, match=r'^one lacks a row$'):
    _fail(run, tmp_path)  # Not begun yet.
  describe(run, CONFIG, dataset)
  with pytest.raises(DataError, match=r'^one lacks a row$'):
    _fail(run, tmp_path)
  (tmp_path / 'two').write_text('tvo')
  with pytest.raises(DataError, match=r'two: damaged, or changed.*one lacks a row$'):
    _fail(run, tmp_path)


def _fail(workdir, root):
  with naming_changes(workdir, str(root)):
    raise DataError('one lacks a row')
