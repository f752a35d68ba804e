"""Numbers of the original code, and the comparison with ours.

A file holds inputs `in/*`, outputs `out/*`, losses `out/loss/*`, statistics
`out/state/*` and gradients `grad/<loss>/{in,param}/*` of one original module.
Ours are compared under the tolerance that the file itself states; every number
in the file must be compared or be skipped with a reason.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tests.reference.weights import state_dict

Arrays = Mapping[str, Any]

Run = Callable[[Arrays, Arrays], Arrays]
"""`(weights, inputs) -> outputs`: torch tensors by key and inputs by name, to
outputs by their name without `out/`."""

LossRun = Callable[[Arrays, Arrays], tuple[jax.Array, Arrays]]
"""The same, giving a scalar loss and outputs (which may be empty)."""

NO_COUNTER = {
  'out/state/*.num_batches_tracked': 'our BatchNorm has a fixed momentum, no counter'
}
"""The skip that every file with BatchNorm statistics needs."""


@dataclasses.dataclass
class Reference:
  """One file of reference numbers.

  Attributes:
    meta: sizes, definitions and tolerances.
    arrays: every stored array, by name.
    weights: the original's tensors, by torch key.
    inputs: the arrays `in/*`, without the prefix.
    seen: names of the arrays that were compared.
  """

  meta: Mapping[str, Any]
  arrays: Arrays
  weights: Arrays
  inputs: Arrays
  seen: set[str] = dataclasses.field(default_factory=set)

  def check(self, run: Run) -> None:
    """Compares the outputs of `run`."""
    self._compare_outputs(jax.jit(run)(self.weights, self.inputs))

  def check_loss(self, name: str, run: LossRun) -> None:
    """Compares a loss, its stored gradients, and the outputs beside it.

    Gradients are taken with respect to the original's tensors, so that they
    come out in torch's names and layouts.
    """
    stored = f'grad/{name}/'
    wanted = [k.removeprefix(stored) for k in self.arrays if k.startswith(stored)]
    everything = {
      **{f'in/{key}': value for key, value in self.inputs.items()},
      **{f'param/{key}': value for key, value in self.weights.items()},
    }

    @jax.jit
    def value_and_grad(values):
      def loss(chosen):
        merged = {**values, **chosen}
        return run(_under('param/', merged), _under('in/', merged))

      chosen = {key: values[key] for key in wanted}
      return jax.value_and_grad(loss, has_aux=True)(chosen)

    (value, outputs), gradients = value_and_grad(everything)
    self._compare_outputs({f'loss/{name}': value, **outputs})
    for key, gradient in gradients.items():
      self._compare_gradient(name, key, np.asarray(gradient))

  def compare(self, key: str, got: Any) -> None:
    """Compares one array under its own tolerance."""
    want, got = self.arrays[key], np.asarray(got)
    tolerance = self.meta['tolerance']
    assert got.shape == want.shape, (key, got.shape, want.shape)
    np.testing.assert_allclose(
      got, want, rtol=tolerance['rtol'], atol=tolerance['atol'][key], err_msg=key
    )
    self.seen.add(key)

  def finish(self, skip: Mapping[str, str] | None = None) -> None:
    """Fails if a stored number was neither compared nor skipped.

    Args:
      skip: reason by pattern of array names.
    """
    left = [
      key
      for key in self.arrays
      if not key.startswith('in/')
      and key not in self.seen
      and not any(fnmatchcase(key, pattern) for pattern in skip or {})
    ]
    assert not left, f'neither compared nor skipped: {left}'

  def _compare_outputs(self, outputs: Mapping[str, jax.Array]) -> None:
    for name, value in outputs.items():
      self.compare(f'out/{name}', value)

  def _compare_gradient(self, loss: str, key: str, gradient: np.ndarray) -> None:
    full = f'grad/{loss}/{key}'
    if stride := self.meta.get('grad_subsample', {}).get(full):
      self.compare(f'gradnorm/{loss}/{key}', np.linalg.norm(gradient))
      gradient = gradient.ravel()[::stride]
    self.compare(full, gradient)


def _under(prefix: str, values: Arrays) -> Arrays:
  return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}


def load(folder: Path, name: str) -> Reference:
  """Reads `<folder>/<name>.npz`."""
  with np.load(folder / f'{name}.npz', allow_pickle=False) as file:
    arrays = {key: file[key] for key in file.files}
  meta = json.loads(str(arrays.pop('meta')))
  inputs = {k.removeprefix('in/'): v for k, v in arrays.items() if k.startswith('in/')}
  return Reference(meta, arrays, state_dict(meta), inputs)
