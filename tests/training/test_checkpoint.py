"""A checkpoint is whole and is restored, or it is named and the one before is used."""

import contextlib
import errno
import json
import logging
import os
import resource
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdyn.training import checkpoint, selection
from jdyn.training.checkpoint import CheckpointError, Checkpoints


def _items(step):
  """A tree as training has it: dataclasses, empty parts, several dtypes."""
  variables = {'params': {'w': jnp.full((2, 3), float(step))}, 'batch_stats': {}}
  return {
    'state': {
      'step': jnp.full((2,), step, jnp.int32),
      'seed': jnp.arange(2, dtype=jnp.uint32),
      'opt_state': (jnp.arange(4.0) * step, ()),
      'halted': jnp.array([False, True]),
    },
    'best': selection.start(variables, 2, maximize=True),
  }


def _save(folder, steps, keep=2):
  with Checkpoints(folder, keep=keep) as checkpoints:
    for step in steps:
      checkpoints.save(step, _items(step), {'batch_hash': f'hash {step}'})


def _restore(folder):
  with Checkpoints(folder) as checkpoints:
    return checkpoints.restore(_items(0))


def _assert_is(restored, step):
  items, meta = restored
  assert meta == {'batch_hash': f'hash {step}', 'step': step}
  want = _items(step)
  assert jax.tree.structure(items) == jax.tree.structure(want)
  jax.tree.map(np.testing.assert_array_equal, items, want)
  for got, leaf in zip(jax.tree.leaves(items), jax.tree.leaves(want), strict=True):
    assert got.dtype == leaf.dtype


def _largest(folder, step):
  files = [p for p in (folder / 'steps' / str(step)).rglob('*') if p.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


def _flip_a_bit(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def _remove(path):
  path.unlink()


def _truncate(path):
  path.write_bytes(path.read_bytes()[:-1])


def test_nothing_saved_is_nothing_restored(tmp_path):
  assert _restore(tmp_path) is None


def test_the_newest_is_restored_bit_by_bit(tmp_path):
  _save(tmp_path, [3, 7])
  _assert_is(_restore(tmp_path), 7)


def test_the_manifest_names_every_file_and_its_hash(tmp_path):
  import hashlib

  _save(tmp_path, [3])
  manifest = json.loads((tmp_path / 'manifests' / '3.json').read_text())
  root = tmp_path / 'steps' / '3'
  files = {str(p.relative_to(root)): p for p in root.rglob('*') if p.is_file()}
  assert manifest['step'] == 3
  assert manifest['contents'] == {
    name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()
  }


def test_only_the_newest_are_kept_and_nothing_piles_up(tmp_path):
  _save(tmp_path, [1, 2, 3, 4, 5])
  assert sorted(p.name for p in (tmp_path / 'manifests').iterdir()) == [
    '4.json',
    '5.json',
  ]
  assert sorted(p.name for p in (tmp_path / 'steps').iterdir()) == ['4', '5']


@pytest.mark.parametrize('damage', [_flip_a_bit, _remove, _truncate])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
  tmp_path, caplog, damage
):
  _save(tmp_path, [3, 7])
  victim = _largest(tmp_path, 7)
  damage(victim)
  with caplog.at_level(logging.ERROR, logger='jdyn'):
    _assert_is(_restore(tmp_path), 3)
  (record,) = caplog.records
  assert 'Checkpoint 7 is damaged' in record.getMessage()
  assert str(victim) in record.getMessage()


def test_every_file_is_guarded(tmp_path, caplog):
  _save(tmp_path, [3, 7])
  root = tmp_path / 'steps' / '7'
  names = json.loads((tmp_path / 'manifests' / '7.json').read_text())['contents']
  with Checkpoints(tmp_path) as checkpoints:
    for name in names:
      content = (root / name).read_bytes()
      (root / name).write_bytes(content + b'?')
      assert str(root / name) in checkpoints._problem(7)
      (root / name).write_bytes(content)
    assert checkpoints._problem(7) == ''
    (root / 'extra').touch()
    assert 'extra does not belong there' in checkpoints._problem(7)


@pytest.mark.parametrize('text', ['', '{}', '[1]', '{"files": 3}'])
def test_a_damaged_manifest_is_a_damaged_checkpoint(tmp_path, caplog, text):
  _save(tmp_path, [3, 7])
  manifest = tmp_path / 'manifests' / '7.json'
  manifest.write_text(text)
  _assert_is(_restore(tmp_path), 3)
  assert str(manifest) in caplog.text


def test_a_manifest_says_whether_it_is_what_was_written(tmp_path, caplog):
  _save(tmp_path, [3, 7])
  manifest = tmp_path / 'manifests' / '7.json'
  manifest.write_text(manifest.read_text().replace('"step": 7', '"step": 5'))
  _assert_is(_restore(tmp_path), 3)
  assert str(manifest) in caplog.text
  # A whole one, but of another step.
  manifest.write_bytes((tmp_path / 'manifests' / '3.json').read_bytes())
  _assert_is(_restore(tmp_path), 3)
  assert 'not the manifest of step 7' in caplog.text


def test_training_goes_on_behind_a_damaged_checkpoint(tmp_path):
  """The damaged step is saved anew when training comes to it again."""
  _save(tmp_path, [3, 7])
  _flip_a_bit(_largest(tmp_path, 7))
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.restore(_items(0))
    checkpoints.save(7, _items(7), {'batch_hash': 'hash 7'})
  _assert_is(_restore(tmp_path), 7)


def test_when_all_are_damaged_nothing_is_made_up(tmp_path):
  _save(tmp_path, [3, 7])
  victims = [_largest(tmp_path, step) for step in (3, 7)]
  for victim in victims:
    _flip_a_bit(victim)
  with pytest.raises(CheckpointError, match='is damaged') as error:
    _restore(tmp_path)
  assert all(str(victim) in str(error.value) for victim in victims)
  assert 'remove the folder' in str(error.value)


def test_a_step_without_manifest_was_never_saved(tmp_path):
  """As after a kill between the commit of the files and that of the manifest."""
  _save(tmp_path, [3, 7])
  (tmp_path / 'manifests' / '7.json').unlink()
  _assert_is(_restore(tmp_path), 3)
  for step in (4, 5):  # Another pace than before the kill.
    _save(tmp_path, [step])
  _assert_is(_restore(tmp_path), 5)
  _flip_a_bit(_largest(tmp_path, 5))
  _assert_is(_restore(tmp_path), 4)  # The stale step 7 took nobody's place.


def test_a_first_step_without_manifest_is_saved_again(tmp_path):
  _save(tmp_path, [3])
  (tmp_path / 'manifests' / '3.json').unlink()
  assert _restore(tmp_path) is None
  _save(tmp_path, [3])
  _assert_is(_restore(tmp_path), 3)


def test_what_was_saved_before_a_kill_is_saved_again(tmp_path):
  """The best variables, when the result behind them was not written any more."""
  _save(tmp_path, [4], keep=1)
  _save(tmp_path, [4], keep=1)
  _assert_is(_restore(tmp_path), 4)


def test_a_half_written_step_is_ignored_and_removed(tmp_path):
  _save(tmp_path, [3, 5])
  (tmp_path / 'manifests' / '5.json').unlink()  # Killed before that was written.
  draft = tmp_path / 'steps' / '7.orbax-checkpoint-tmp' / 'state'
  draft.mkdir(parents=True)
  (draft / 'data').write_bytes(b'half')
  (tmp_path / 'manifests' / '7.json.partial').write_text('{"files"')
  _assert_is(_restore(tmp_path), 3)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.clean()
  assert [path.name for path in (tmp_path / 'steps').iterdir()] == ['3']
  assert [path.name for path in (tmp_path / 'manifests').iterdir()] == ['3.json']
  _assert_is(_restore(tmp_path), 3)


def test_to_open_and_restore_writes_nothing(tmp_path):
  assert _restore(tmp_path / 'none') is None
  assert list(tmp_path.iterdir()) == []


def test_what_is_saved_may_change_meanwhile(tmp_path):
  values = np.zeros(2**16)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, {'state': {'values': values}}, {})
    values += 1  # As the next training step does in memory that was given to it.
  with Checkpoints(tmp_path) as checkpoints:
    restored, _ = checkpoints.restore({'state': {'values': values}})
  np.testing.assert_array_equal(restored['state']['values'], np.zeros(2**16))


@contextlib.contextmanager
def _small_files():
  """Files of this process cannot grow any more, as on a full disk; for anybody."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize('background', [True, False])
def test_a_save_that_fails_is_one_error_and_takes_nothing_away(tmp_path, background):
  _save(tmp_path, [3], keep=1)
  large = {'state': {'w': np.random.default_rng(0).random(2**16)}}

  def save():
    with (
      _small_files(),
      Checkpoints(tmp_path, keep=1, background=background) as checkpoints,
    ):
      checkpoints.save(7, large, {})
      while True:
        checkpoints.check()  # Raises as soon as it is known.

  message = rf'{tmp_path}.*7 could not be saved: File too large. .* before, step 3.'
  with pytest.raises(CheckpointError, match=message) as error:
    save()
  assert '\n' not in str(error.value)
  _assert_is(_restore(tmp_path), 3)


def test_no_thread_waits_for_a_folder_that_could_not_be_made(tmp_path, monkeypatch):
  """The process would not end for as long."""
  mkdir = os.mkdir

  def full(path, *arguments, **options):
    if 'state' in os.path.basename(path):
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    return mkdir(path, *arguments, **options)

  before = {*threading.enumerate()}
  monkeypatch.setattr(os, 'mkdir', full)
  with pytest.raises(CheckpointError, match='the disk is full'):
    _save(tmp_path, [1])
  left = [t for t in threading.enumerate() if t not in before and not t.daemon]
  for thread in left:
    thread.join(2)
  assert [thread.name for thread in left if thread.is_alive()] == []


def test_a_failed_save_does_not_hide_what_ended_the_job(tmp_path, monkeypatch, caplog):
  def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  def job():
    with Checkpoints(tmp_path) as checkpoints:
      checkpoints.save(3, _items(3), {})
      raise KeyError('the job')

  monkeypatch.setattr(checkpoint, 'write_sealed', full)
  with caplog.at_level(logging.ERROR, logger='jdyn'), pytest.raises(KeyError):
    job()
  assert 'the disk is full' in caplog.text


def test_nothing_is_removed_before_the_new_manifest(tmp_path, monkeypatch):
  """Steps that no manifest names do not push out one that is saved."""
  _save(tmp_path, [3], keep=1)

  def fail(*_):
    raise OSError(errno.EIO, os.strerror(errno.EIO))

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint, 'write_sealed', fail)
    for step in (5, 6, 7):
      with pytest.raises(CheckpointError):
        _save(tmp_path, [step], keep=1)
  _assert_is(_restore(tmp_path), 3)


def test_a_tree_of_other_shapes_is_refused(tmp_path):
  _save(tmp_path, [3])
  items = _items(0)
  items['state']['opt_state'] = (jnp.zeros(5), ())
  with (
    Checkpoints(tmp_path) as checkpoints,
    pytest.raises(
      CheckpointError, match=r"state\['opt_state'\]\[0\] is float32\[4\] in"
    ),
  ):
    checkpoints.restore(items)
