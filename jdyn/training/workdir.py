"""The folder of a run: what it was told, on which data, with which versions."""

import contextlib
import errno
import fcntl
import importlib.metadata
import json
import os
import platform
import shlex
import sys
import weakref
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from jdyn.data.dataset import DataError, Dataset, DataSpec, ModalitySpec
from jdyn.data.hashing import sha256_file
from jdyn.data.sealed import write_sealed
from jdyn.evaluators.run_files import read_json
from jdyn.training import disk, hosts

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')


_DATA = 'data.json'

# Keys of a config that change no number of a run so far: it may go on with others.
_FREE = ('checkpoint_async', 'checkpoint_seconds', 'host_threads', 'nonfinite')

SWEEP = 'sweep.json'
"""What a folder of a sweep holds and that of a run does not."""


class WorkdirError(RuntimeError):
  """A folder that this run must not write to."""


def read_spec(workdir: Path) -> DataSpec:
  """The specification of the data that a run was trained on.

  Raises:
    WorkdirError: the folder holds no run.
    DataError: what it says of its data is damaged.
  """
  path = workdir / _DATA
  if not path.exists():
    raise WorkdirError(f'{workdir} holds no run: {path} does not exist.')
  data = read_json(path)
  spec = data['spec']
  return DataSpec(
    name=data['name'],
    task=spec['task'],
    num_outputs=spec['num_outputs'],
    class_names=tuple(spec['class_names']),
    modalities={
      name: ModalitySpec(tuple(entry['shape']), entry['sequence'])
      for name, entry in spec['modalities'].items()
    },
  )


class Lock:
  """Held while a run writes to a folder; it ends with the process that holds it.

  It is `flock` on the file `.lock`, which the system drops when the process ends,
  however it ends. Programs that the process starts do not get the file (Python opens
  files so), and what is forked closes it at once: no child keeps the lock.

  On network file systems: NFS, since Linux 2.6.12, makes of it a lock of the whole file
  at the server, so that it holds between machines, if the server's lock service runs
  and the folder is not mounted with `nolock` or `local_lock=flock`. With these, as on
  some cluster file systems (Lustre with `localflock`), it holds on one machine alone;
  where there are no locks it is refused, which is said. A server takes back the lock of
  a machine that vanished after a while, not at once. Do not start the same run on two
  machines where that is not known to work.
  """

  def __init__(self, workdir: Path):
    """Makes the folder and takes its lock.

    Of a run in several processes the first one takes it, for all.

    Raises:
      WorkdirError: another run is going on there, or the folder cannot be written.
    """
    self._folder, self._path = workdir, workdir / '.lock'
    try:
      workdir.mkdir(parents=True, exist_ok=True)
      self._file = open(self._path, 'a')  # noqa: SIM115
    except OSError as error:
      raise unwritable(workdir, error) from error
    _HELD.add(self)
    try:
      if hosts.is_first():
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      self.check()  # Another may have put a new folder in the place of this one.
    except OSError as error:
      self.release()
      if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
        raise unwritable(workdir, error) from error
      raise WorkdirError(
        f'Another process is running in {workdir}; wait for it or give another '
        '--workdir.'
      ) from error
    except WorkdirError:
      self.release()
      raise

  def check(self) -> None:
    """Raises WorkdirError if the folder is gone, or another one is in its place."""
    try:
      same = os.path.samestat(os.stat(self._path), os.fstat(self._file.fileno()))
    except OSError:
      same = False
    if not same:
      raise WorkdirError(
        f'{self._folder} was removed or replaced, or its disk went away, while a run '
        'was writing to it. What was there must come back, or the run start anew.'
      )

  def release(self) -> None:
    """Lets others in."""
    self._file.close()
    _HELD.discard(self)


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[Lock]:
  """Holds the lock of a folder; what goes wrong there is one error.

  Raises:
    WorkdirError: the folder is in use, or cannot be written, now or any more.
  """
  lock = hosts.first_ahead(lambda: Lock(workdir))
  try:
    yield lock
  except Exception as error:
    lock.check()  # Where the folder is gone, whatever else is wrong comes from that.
    if isinstance(error, OSError):
      raise unwritable(workdir, error) from error
    raise
  finally:
    lock.release()


_HELD: 'weakref.WeakSet[Lock]' = weakref.WeakSet()


def _leave_to_parent() -> None:
  """Closes a fork's files of the locks; its parent holds them still."""
  for lock in list(_HELD):
    lock.release()


os.register_at_fork(after_in_child=_leave_to_parent)


def unwritable(workdir: Path, error: OSError) -> WorkdirError:
  """What to say of a folder when something could not be written or read there."""
  why = disk.reason(error) or error.strerror or str(error)
  where = f' ({error.filename})' if error.filename else ''
  return WorkdirError(
    f'{workdir}: {why}{where}. Mend that, or give another --workdir. The same command '
    'goes on from the last checkpoint.'
  )


def describe(
  workdir: Path,
  config: Mapping[str, Any],
  dataset: Dataset,
  notes: Mapping[str, str] | None = None,
) -> None:
  """Writes config, data and environment, or checks that they are those of before.

  Args:
    workdir: the folder.
    config: all of the run's.
    dataset: that it works on.
    notes: more about where the run comes from, for `environment.json`.

  Raises:
    WorkdirError: the folder holds a run of another config or other data.
    DataError: what it says of them is damaged.
  """
  data = {
    'name': dataset.spec.name,
    'origin': dataset.origin,
    'hashes': dict(dataset.hashes),
    'sizes': {name: len(split) for name, split in dataset.splits.items()},
    'spec': {
      'task': dataset.spec.task,
      'num_outputs': dataset.spec.num_outputs,
      'class_names': list(dataset.spec.class_names),
      'modalities': {
        name: {'shape': list(modality.shape), 'sequence': modality.sequence}
        for name, modality in dataset.spec.modalities.items()
      },
    },
  }
  if (workdir / SWEEP).exists():
    raise WorkdirError(f'{workdir} holds a sweep; give another --workdir.')
  _claim(workdir / 'config.json', config, free=_FREE)
  check_hashes(workdir, dataset.hashes)
  _claim(workdir / _DATA, data)
  devices = jax.devices()
  environment = {
    'command': shlex.join(sys.argv),
    'python': platform.python_version(),
    'platform': platform.platform(),
    'devices': [device.device_kind for device in devices],
    'versions': versions(),
    **(notes or {}),
  }
  write_sealed(workdir / 'environment.json', environment)


def check_hashes(workdir: Path, hashes: Mapping[str, str]) -> None:
  """Compares files of a dataset with those that a run was trained on, if any.

  Raises:
    WorkdirError: they differ.
    DataError: what the run says of its data is damaged.
  """
  path = workdir / _DATA
  if not path.exists():
    return
  before = read_json(path)['hashes']
  names = sorted(before.keys() | hashes.keys())
  if changed := [name for name in names if before.get(name) != hashes.get(name)]:
    raise WorkdirError(
      f'{", ".join(changed[:5])}: damaged, or changed since the run began: the SHA-256 '
      f'in {path} is another. Restore the data from a copy, or give another --workdir.'
    )


@contextlib.contextmanager
def naming_changes(workdir: Path, root: str) -> Iterator[None]:
  """Says of data that cannot be loaded which files changed since the run began.

  What a damaged file leads to may be an error about another one.

  Args:
    workdir: of the run, which may not have begun.
    root: of the data.

  Raises:
    DataError: as it comes from within, with their names.
  """
  try:
    yield
  except DataError as error:
    path = workdir / _DATA
    before = read_json(path)['hashes'] if root and path.exists() else {}
    files = {name: Path(root).expanduser() / name for name in before}
    changed = [
      str(file)
      for name, file in files.items()
      if file.is_file() and sha256_file(file) != before[name]
    ]
    if not changed:
      raise
    raise DataError(
      f'{", ".join(changed[:5])}: damaged, or changed since the run began: the SHA-256 '
      f'in {path} is another. {error}'
    ) from error


def versions() -> dict[str, str]:
  """Of the packages that numbers and times depend on."""
  return {name: importlib.metadata.version(name) for name in _PACKAGES}


def describe_sweep(workdir: Path, what: Mapping[str, Any]) -> None:
  """Writes what is swept, or checks that it is what was swept before.

  Raises:
    WorkdirError: the folder holds a run, or another sweep.
    DataError: what it says of that is damaged.
  """
  if (workdir / 'config.json').exists():
    raise WorkdirError(f'{workdir} holds a run and no sweep; give another --workdir.')
  _claim(workdir / SWEEP, what)


def _claim(path: Path, value: Any, free: Collection[str] = ()) -> None:
  """Writes a JSON file, or checks that it holds the same but for keys that are free."""
  value = json.loads(json.dumps(value))
  if not path.exists():
    write_sealed(path, value)
    return
  before = read_json(path)
  before |= {key: value[key] for key in free if key in value}
  if changed := _differences(before, value):
    raise WorkdirError(
      f'{path} is of another run; it differs in {", ".join(changed[:5])}. Give '
      'another --workdir, or the same config and data to continue that run.'
    )


def _differences(before: Any, after: Any, key: str = '') -> list[str]:
  """Dotted names of the leaves in which two JSON values differ."""
  if not (isinstance(before, dict) and isinstance(after, dict)):
    return [] if before == after else [f'{key[1:]} ({before!r} before, {after!r} now)']
  return [
    difference
    for name in sorted(before.keys() | after.keys())
    for difference in _differences(before.get(name), after.get(name), f'{key}.{name}')
  ]
