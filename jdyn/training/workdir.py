"""The folder of a run: what it was told, on which data, with which versions."""

import fcntl
import importlib.metadata
import json
import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jdyn.data.dataset import Dataset, DataSpec, ModalitySpec
from jdyn.training.logging import write_json

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')


SWEEP = 'sweep.json'
"""What a folder of a sweep holds and that of a run does not."""


class WorkdirError(RuntimeError):
  """A folder that this run must not write to."""


def read_spec(workdir: Path) -> DataSpec:
  """The specification of the data that a run was trained on.

  Raises:
    WorkdirError: the folder holds no run.
  """
  path = workdir / 'data.json'
  if not path.exists():
    raise WorkdirError(f'{workdir} holds no run: {path} does not exist.')
  data = json.loads(path.read_text())
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
  """Held while a run writes to a folder; it ends with the process that holds it."""

  def __init__(self, workdir: Path):
    """Makes the folder and takes its lock.

    Raises:
      WorkdirError: another process is running there.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    self._file = open(workdir / '.lock', 'a')  # noqa: SIM115
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      raise WorkdirError(
        f'Another process is running in {workdir}; wait for it or give another '
        '--workdir.'
      ) from error

  def release(self) -> None:
    """Lets others in."""
    self._file.close()


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
  _claim(workdir / 'config.json', config)
  _claim(workdir / 'data.json', data)
  devices = jax.devices()
  environment = {
    'command': shlex.join(sys.argv),
    'python': platform.python_version(),
    'platform': platform.platform(),
    'devices': [device.device_kind for device in devices],
    'versions': versions(),
    **(notes or {}),
  }
  write_json(workdir / 'environment.json', environment)


def versions() -> dict[str, str]:
  """Of the packages that numbers and times depend on."""
  return {name: importlib.metadata.version(name) for name in _PACKAGES}


def describe_sweep(workdir: Path, what: Mapping[str, Any]) -> None:
  """Writes what is swept, or checks that it is what was swept before.

  Raises:
    WorkdirError: the folder holds a run, or another sweep.
  """
  if (workdir / 'config.json').exists():
    raise WorkdirError(f'{workdir} holds a run and no sweep; give another --workdir.')
  _claim(workdir / SWEEP, what)


def _claim(path: Path, value: Any) -> None:
  """Writes a JSON file, or checks that it holds the same already."""
  value = json.loads(json.dumps(value))
  if not path.exists():
    write_json(path, value)
    return
  before = json.loads(path.read_text())
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
