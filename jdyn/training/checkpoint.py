"""Checkpoints that are either whole or refused.

A step's items are copied to the host's memory, and written by Orbax in the background;
it commits them with one rename. Beside them lies a sealed manifest with the SHA-256 of
every file; a step counts as saved once its manifest is on disk, and is verified against
it before it is restored: Orbax alone restores a flipped bit without a word. Nothing
older is removed before that, so whenever a save ends, by a kill, a full disk or a power
cut, the one before can still be restored.
"""

import concurrent.futures
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdyn.data.dataset import DataError
from jdyn.data.hashing import sha256_file
from jdyn.data.sealed import read_sealed, write_sealed
from jdyn.training import disk, hosts

_LOG = logging.getLogger(__name__)

_FORMAT = 2
_NONE = -1  # In place of a step.

_REMEDY = 'Restore the files from a copy, or remove the folder to train from the start.'


class CheckpointError(RuntimeError):
  """No usable checkpoint where there should be one, or none could be saved."""


def _template(leaf: Any) -> np.ndarray:
  """Orbax restores to NumPy where the template is NumPy, on any set of devices."""
  return np.empty(leaf.shape, leaf.dtype)


def _check_shapes(name: str, found: Any, wanted: Any) -> None:
  """Orbax compares the trees' keys, but for NumPy arrays not their shapes."""
  pairs = zip(jax.tree.leaves_with_path(found), jax.tree.leaves(wanted), strict=True)
  for (path, leaf), template in pairs:
    if leaf.shape != template.shape or leaf.dtype != template.dtype:
      raise CheckpointError(
        f'{name}{jax.tree_util.keystr(path)} is {leaf.dtype}{list(leaf.shape)} in the '
        f'checkpoint and {template.dtype}{list(template.shape)} in the model. The code '
        'or the config has changed since; give another folder.'
      )


class Checkpoints:
  """The checkpoints of one folder, the newest `keep` of them.

  Opening and restoring write nothing. Use as a context manager, or `close` it: pending
  saves are then finished.
  """

  def __init__(self, folder: Path, *, keep: int = 2, background: bool = True):
    """Opens a folder, which need not exist.

    Args:
      folder: of these checkpoints alone.
      keep: so many; older ones are removed.
      background: whether `save` returns before the files are on disk.
    """
    import orbax.checkpoint as ocp  # Slow to import, and not needed for `--help`.

    self._ocp = ocp
    # Every process has the whole state: one writes, and each reads by itself.
    alone = ocp.options.MultiprocessingOptions(
      primary_host=jax.process_index(), active_processes={jax.process_index()}
    )
    self._orbax = ocp.Checkpointer(
      ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(
          multiprocessing_options=alone,
          # Otherwise threads wait twenty minutes for folders that could not be made,
          # and the process does not end.
          async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        )
      ),
      multiprocessing_options=alone,
    )
    self._steps = folder.resolve() / 'steps'
    self._manifests = folder.resolve() / 'manifests'
    self._keep, self._background = keep, background
    self._worker = concurrent.futures.ThreadPoolExecutor(1, 'checkpoint')
    self._pending: concurrent.futures.Future | None = None

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, kind, error, traceback) -> None:
    try:
      self.close()
    except CheckpointError as failure:
      if error is None:
        raise
      _LOG.error('%s', failure)  # Not in place of what ended the job.

  def save(self, step: int, items: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Saves trees of arrays and a JSON-able `meta`.

    Raises:
      CheckpointError: this save or, if they are made in the background, the one before
        failed. What was saved before is still there.
    """
    self.wait()
    if not hosts.is_first():
      return
    # Copies: the next training step may write to the arrays' own memory.
    trees = {name: jax.tree.map(np.array, tree) for name, tree in items.items()}
    self._pending = self._worker.submit(self._save, step, trees, {**meta, 'step': step})
    if not self._background:
      self.wait()

  def check(self) -> None:
    """Raises the error of a save that has failed meanwhile; waits for none.

    Raises:
      CheckpointError: the save failed.
    """
    if self._pending is not None and self._pending.done():
      self.wait()

  def wait(self) -> None:
    """Returns once the last save is on disk, manifest included.

    Raises:
      CheckpointError: the save failed.
    """
    pending, self._pending = self._pending, None
    if pending is not None:
      pending.result()

  def close(self) -> None:
    """Finishes pending saves.

    Raises:
      CheckpointError: the last save failed.
    """
    try:
      self.wait()
    finally:
      self._worker.shutdown()
      self._orbax.close()

  def clean(self) -> None:
    """Removes what saves left that ended before their manifest was written."""
    if not hosts.is_first():
      return
    saved = {str(step) for step in self._saved()}
    for path in self._steps.glob('*'):
      if path.name not in saved:
        _remove(path)
    for path in self._manifests.glob('*.partial'):
      path.unlink()

  def restore(
    self, items: Mapping[str, Any], remedy: str = _REMEDY
  ) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """The newest whole checkpoint, or None if none was ever saved.

    Args:
      items: trees with the shapes and dtypes to restore, by item name.
      remedy: what the error says to do if all are damaged.

    Returns:
      The restored trees, and the `meta` of the save.

    Raises:
      CheckpointError: checkpoints were saved, but each of them is damaged, or the
        newest whole one holds arrays of other shapes.
    """
    # The first process looks at every file, for all.
    newest = hosts.first_alone(lambda: self._newest_whole(remedy))
    step = hosts.from_first(_NONE if newest is None else newest)
    if step == _NONE:
      return None
    args = {
      name: self._ocp.args.StandardRestore(jax.tree.map(_template, tree))
      for name, tree in items.items()
    }
    args['meta'] = self._ocp.args.JsonRestore()
    restored = self._orbax.restore(
      self._steps / str(step), args=self._ocp.args.Composite(**args)
    )
    for name, tree in items.items():
      _check_shapes(name, restored[name], tree)
    return {name: restored[name] for name in items}, restored['meta']

  def _newest_whole(self, remedy: str) -> int:
    """The step of the newest whole checkpoint; `_NONE` if none was ever saved.

    Raises:
      CheckpointError: each that was saved is damaged.
    """
    damaged = []
    for step in reversed(self._saved()):
      problem = self._problem(step)
      if not problem:
        return step
      _LOG.error('Checkpoint %d is damaged and not used: %s', step, problem)
      damaged.append(problem)
    if damaged:
      raise CheckpointError(
        f'Every checkpoint in {self._steps.parent} is damaged: {damaged}. {remedy}'
      )
    return _NONE

  def _saved(self) -> list[int]:
    """The steps that have a manifest, in order."""
    return sorted(int(path.stem) for path in self._manifests.glob('*.json'))

  def _manifest(self, step: int) -> Path:
    return self._manifests / f'{step}.json'

  def _save(self, step: int, trees: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Writes a step and its manifest, and removes what it replaces."""
    try:
      self._write(step, trees, meta)
    except (OSError, ValueError, RuntimeError) as error:  # The last two: Orbax.
      why = disk.reason(error) or f'{type(error).__name__}: {error}'
      left = [f', step {step}' for step in self._saved()[-1:]]
      raise CheckpointError(
        f'{self._steps}: checkpoint {step} could not be saved: {why}. The '
        f'same command goes on from what was saved before{"".join(left)}.'
      ) from error

  def _write(
    self, step: int, trees: Mapping[str, Any], meta: Mapping[str, Any]
  ) -> None:
    for folder in (self._steps, self._manifests):
      folder.mkdir(parents=True, exist_ok=True)
    self._drop(step)  # Damaged, or the same: training went back behind it.
    self.clean()
    args = {name: self._ocp.args.StandardSave(tree) for name, tree in trees.items()}
    args['meta'] = self._ocp.args.JsonSave(dict(meta))
    target = self._steps / str(step)
    self._orbax.save(target, args=self._ocp.args.Composite(**args))
    # The manifest must not reach the disk before what it vouches for.
    for path in (*target.rglob('*'), target, self._steps):
      _sync(path)
    contents = {'format': _FORMAT, 'step': step, 'contents': self._hashes(step)}
    write_sealed(self._manifest(step), contents)
    for folder in (self._manifests, self._manifests.parent):
      _sync(folder)
    # Later ones are damaged too: training went back behind them.
    saved = self._saved()
    later = [each for each in saved if each > step]
    for each in later + [each for each in saved if each <= step][: -self._keep]:
      self._drop(each)

  def _drop(self, step: int) -> None:
    """Removes a step; first its manifest, so that no kill leaves one without files."""
    self._manifest(step).unlink(missing_ok=True)
    _remove(self._steps / str(step))

  def _hashes(self, step: int) -> dict[str, str]:
    root = self._steps / str(step)
    files = sorted(path for path in root.rglob('*') if path.is_file())
    return {str(path.relative_to(root)): sha256_file(path) for path in files}

  def _problem(self, step: int) -> str:
    """What is wrong with a saved step; empty if nothing is."""
    path, root = self._manifest(step), self._steps / str(step)
    try:
      manifest = read_sealed(path)
      found = self._hashes(step)
    except DataError as error:
      return str(error)
    except OSError as error:
      return f'{error.filename} cannot be read ({error.strerror})'
    if (manifest.get('format'), manifest.get('step')) != (_FORMAT, step):
      return f'{path} is not the manifest of step {step} in format {_FORMAT}'
    wanted = manifest['contents']
    for name in sorted(wanted.keys() | found.keys()):
      if name not in found:
        return f'{root / name} is missing'
      if name not in wanted:
        return f'{root / name} does not belong there'
      if found[name] != wanted[name]:
        return f'{root / name} was changed after it was saved'
    return ''


def _remove(path: Path) -> None:
  if path.is_dir():
    shutil.rmtree(path)
  else:
    path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
  """Has a file or folder written through to the disk."""
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)
