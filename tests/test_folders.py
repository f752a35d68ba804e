"""Two runs in one folder, and folders that vanish: nothing is overwritten.

This is the short version of `python -m tests.faults folders`.
"""

import errno
import os
import random
import shutil

import pytest

from jdyn.training import workdir
from jdyn.training.workdir import Lock, WorkdirError, held
from tests.faults import folders, kills


@pytest.fixture(scope='module')
def shared(tmp_path_factory):
  """A finished run that other tests have too, and a place for others."""
  seed = random.randrange(10**6)
  print(f'moments drawn with seed {seed}')
  runner, undisturbed = kills.undisturbed()
  return folders.Folders(
    tmp_path_factory.mktemp('folders'), seed, runner=runner, undisturbed=undisturbed
  )


@pytest.mark.parametrize(
  'scenario',
  [folders.two_at_once, folders.moved_and_back, folders.clock_jumps],
  ids=lambda scenario: scenario.__name__,
)
def test_nothing_is_lost(scenario, shared):
  assert scenario(shared) == ''


def test_no_child_keeps_the_lock(shared):
  assert folders.lock_of_a_parent(shared) == ''


def test_a_disk_that_cannot_be_written_is_refused(shared):
  if not folders.can_mount():
    pytest.skip('only root may mount a disk')
  with folders.disk_of(shared) as disk:
    folders.mount('-o', 'remount,ro', str(disk))
    with pytest.raises(
      WorkdirError, match=f'{disk}/run: Read-only file system'
    ) as error:
      Lock(disk / 'run')
  assert 'give another --workdir' in str(error.value)


def test_a_folder_that_is_a_file_is_refused(tmp_path):
  (tmp_path / 'notes').write_text('mine')
  with pytest.raises(WorkdirError, match='notes: '):
    Lock(tmp_path / 'notes')
  with pytest.raises(WorkdirError, match='notes/run: Not a directory'):
    Lock(tmp_path / 'notes' / 'run')
  assert (tmp_path / 'notes').read_text() == 'mine'


def test_a_file_system_without_locks_is_told_from_a_run(tmp_path, monkeypatch):
  def flock(*args):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

  monkeypatch.setattr(workdir.fcntl, 'flock', flock)
  with pytest.raises(WorkdirError, match='No locks available'):
    Lock(tmp_path)


@pytest.mark.parametrize('replaced', [False, True])
def test_whatever_fails_in_a_folder_that_is_gone_is_put_down_to_that(
  tmp_path, replaced
):
  folder = tmp_path / 'run'

  def work():
    with held(folder) as lock:
      lock.check()
      shutil.rmtree(folder)
      if replaced:
        Lock(folder).release()
      raise ValueError('storage says something')

  with pytest.raises(WorkdirError, match='was removed or replaced'):
    work()


def test_other_errors_stay_what_they_are(tmp_path):
  with pytest.raises(ValueError, match='of mine'), held(tmp_path):
    raise ValueError('of mine')
  goes_on = r'is full .*The same command goes on'
  with pytest.raises(WorkdirError, match=goes_on), held(tmp_path):
    raise OSError(errno.ENOSPC, 'No space left on device', 'x')
  Lock(tmp_path).release()
