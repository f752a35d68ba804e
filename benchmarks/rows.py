"""The rows that every benchmark writes: one JSON object per line."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jdyn.evaluators.latency import device_name


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
    'device': device_name(),
    'versions': {'jax': jax.__version__, **(versions or {})},
    **more,
  }


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
  """Writes one object per line."""
  path.write_text(''.join(json.dumps(entry) + '\n' for entry in rows))
