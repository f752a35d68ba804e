"""The rows that every benchmark writes: one JSON object per line."""

import contextlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax


def row(
  name: str,
  value: float,
  unit: str,
  baseline: float | None = None,
  ratio: float | None = None,
  versions: Mapping[str, str] | None = None,
  **more: Any,
) -> dict[str, Any]:
  """One result, with the device and the versions that it was measured on."""
  return {
    'name': name,
    'value': value,
    'unit': unit,
    'baseline': baseline,
    'ratio': ratio,
    'device': device(),
    'versions': {'jax': jax.__version__, **(versions or {})},
    **more,
  }


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
  """Writes one object per line."""
  path.write_text(''.join(json.dumps(entry) + '\n' for entry in rows))


def device() -> str:
  """The processor's name and the cores that this process may use."""
  name = platform.processor()
  with contextlib.suppress(OSError):
    lines = Path('/proc/cpuinfo').read_text().splitlines()
    name = next(x.split(':')[1].strip() for x in lines if x.startswith('model name'))
  return f'{name}, {len(os.sched_getaffinity(0))} cores'
