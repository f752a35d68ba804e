"""Checkpoints that are either whole or refused.

Orbax writes a step's items in the background and commits them with one rename.
Beside it lies a manifest with the SHA-256 of every file; a step counts as saved
once its manifest is on disk, and is verified against it before it is restored:
Orbax alone restores a flipped bit without a word.
"""

import concurrent.futures
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdyn.data.hashing import sha256_file

_LOG = logging.getLogger(__name__)

_FORMAT = 1


class CheckpointError(RuntimeError):
  """No usable checkpoint where there should be one."""


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

  Use as a context manager, or `close` it: pending saves are then finished.
  """

  def __init__(self, folder: Path, *, keep: int = 2):
    """Opens or makes the folder."""
    import orbax.checkpoint as ocp  # Slow to import; not needed before the first save.

    self._ocp = ocp
    self._steps = folder.resolve() / 'steps'
    self._manifests = folder.resolve() / 'manifests'
    self._manifests.mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(max_to_keep=keep)
    self._manager = ocp.CheckpointManager(self._steps, options=options)
    self._worker = concurrent.futures.ThreadPoolExecutor(1, 'manifest')
    self._pending: concurrent.futures.Future | None = None

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def save(self, step: int, items: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Saves trees of arrays and a JSON-able `meta`, in the background."""
    self.wait()
    # Damaged, or left by a kill before their manifest: training went back behind them.
    for stale in self._manager.all_steps():
      if stale >= step:
        self._manager.delete(stale)
    args = {name: self._ocp.args.StandardSave(tree) for name, tree in items.items()}
    args['meta'] = self._ocp.args.JsonSave({**meta, 'step': step})
    self._manager.save(step, args=self._ocp.args.Composite(**args), force=True)
    self._pending = self._worker.submit(self._finish, step)

  def wait(self) -> None:
    """Returns once the last save is on disk, manifest included."""
    if self._pending is not None:
      self._pending.result()
      self._pending = None

  def close(self) -> None:
    """Finishes pending saves."""
    self.wait()
    self._worker.shutdown()
    self._manager.close()

  def restore(
    self, items: Mapping[str, Any]
  ) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """The newest whole checkpoint, or None if none was ever saved.

    Args:
      items: trees with the shapes and dtypes to restore, by item name.

    Returns:
      The restored trees, and the `meta` of the save.

    Raises:
      CheckpointError: checkpoints were saved, but each of them is damaged, or the
        newest whole one holds arrays of other shapes.
    """
    saved = sorted(int(path.stem) for path in self._manifests.glob('*.json'))
    damaged = []
    for step in reversed(saved):
      if problem := self._problem(step):
        _LOG.error('Checkpoint %d is damaged and not used: %s', step, problem)
        damaged.append(problem)
        continue
      args = {
        name: self._ocp.args.StandardRestore(jax.tree.map(_template, tree))
        for name, tree in items.items()
      }
      args['meta'] = self._ocp.args.JsonRestore()
      restored = self._manager.restore(step, args=self._ocp.args.Composite(**args))
      for name, tree in items.items():
        _check_shapes(name, restored[name], tree)
      return {name: restored[name] for name in items}, restored['meta']
    if damaged:
      raise CheckpointError(
        f'Every checkpoint in {self._steps} is damaged: {damaged}. Restore the files '
        'from a copy, or remove the folder to train from the start.'
      )
    return None

  def _finish(self, step: int) -> None:
    """Hashes a committed step and writes its manifest, atomically and durably."""
    self._manager.wait_until_finished()
    manifest = {'format': _FORMAT, 'step': step, 'files': self._hashes(step)}
    target = self._manifests / f'{step}.json'
    partial = target.with_suffix('.partial')
    with open(partial, 'w') as file:
      json.dump(manifest, file, indent=1, sort_keys=True)
      file.flush()
      os.fsync(file.fileno())
    os.replace(partial, target)
    for path in self._manifests.glob('*.json'):
      if not (self._steps / path.stem).is_dir():
        path.unlink()

  def _hashes(self, step: int) -> dict[str, str]:
    root = self._steps / str(step)
    files = sorted(path for path in root.rglob('*') if path.is_file())
    return {str(path.relative_to(root)): sha256_file(path) for path in files}

  def _problem(self, step: int) -> str:
    """What is wrong with a saved step; empty if nothing is."""
    path = self._manifests / f'{step}.json'
    try:
      wanted = dict(json.loads(path.read_text())['files'])
    except (ValueError, KeyError, TypeError) as error:
      return f'{path} is no manifest ({error})'
    found = self._hashes(step) if (self._steps / str(step)).is_dir() else {}
    for name in sorted(wanted.keys() | found.keys()):
      if name not in found:
        return f'{self._steps / str(step) / name} is missing'
      if name not in wanted:
        return f'{self._steps / str(step) / name} does not belong there'
      if found[name] != wanted[name]:
        return f'{self._steps / str(step) / name} was changed after it was saved'
    return ''
