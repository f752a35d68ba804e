"""Numbers of the original code, and the comparison with ours.

A file holds inputs `in/*`, outputs `out/*`, losses `out/loss/*`, statistics
`out/state/*` and gradients `grad/<loss>/{in,param}/*` of one original module.
Ours are compared under the tolerance that the file itself states; every number
in the file must be compared or be skipped with a reason. Files with numbers in
float64 state two tolerances; some of their numbers are compared in float64 only.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.reference.summary import expand
from tests.reference.weights import state_dict

Arrays = Mapping[str, Any]

Run = Callable[[Arrays, Arrays], Arrays]
"""`(weights, inputs) -> outputs`: torch tensors by key and inputs by name, to
outputs by their name without `out/`."""

LossRun = Callable[[Arrays, Arrays], tuple[jax.Array, Arrays]]
"""The same, giving a scalar loss and outputs (which may be empty)."""

LossesRun = Callable[[Arrays, Arrays], tuple[Arrays, Arrays]]
"""The same, giving scalar losses by name and outputs."""

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
    double: everything is computed and compared in float64.
    seen: names of the arrays that were compared.
  """

  meta: Mapping[str, Any]
  arrays: Arrays
  weights: Arrays
  inputs: Arrays
  double: bool = False
  seen: set[str] = dataclasses.field(default_factory=set)

  def check(self, run: Run) -> None:
    """Compares the outputs of `run`."""
    with self.precision():
      outputs = jax.jit(run)(self.weights, self.inputs)
    self._compare_outputs(outputs)

  def check_loss(self, name: str, run: LossRun) -> None:
    """Compares a loss, its stored gradients, and the outputs beside it."""

    def named(weights, inputs):
      value, outputs = run(weights, inputs)
      return {name: value}, outputs

    self.check_losses(named)

  def check_losses(self, run: LossesRun) -> None:
    """Compares losses, their stored gradients, and the outputs beside them.

    Gradients are taken with respect to the original's tensors, so that they
    come out in torch's names and layouts.
    """
    everything = {
      **{f'in/{key}': value for key, value in self.inputs.items()},
      **{f'param/{key}': value for key, value in self.weights.items()},
    }
    wanted = {key.split('/', 2)[2] for key in self.arrays if key.startswith('grad/')}

    @jax.jit
    def values_and_grads(values):
      def losses(chosen):
        merged = {**values, **chosen}
        return run(_under('param/', merged), _under('in/', merged))

      chosen = {k: v for k, v in values.items() if k in wanted}
      found, pull, outputs = jax.vjp(losses, chosen, has_aux=True)
      # One backward pass for all losses: a program with several compiles far longer.
      eye = {
        name: jnp.asarray(np.arange(len(found)) == i, value.dtype)
        for i, (name, value) in enumerate(found.items())
      }
      return found, outputs, jax.vmap(pull)(eye)[0]

    with self.precision():
      values, outputs, gradients = values_and_grads(everything)
    for i, (name, value) in enumerate(values.items()):
      if f'out/loss/{name}' in self.arrays:
        outputs[f'loss/{name}'] = value
      for key, gradient in gradients.items():
        if f'grad/{name}/{key}' in self.arrays:
          self._compare_gradient(name, key, np.asarray(gradient[i]))
    self._compare_outputs(outputs)

  def precision(self):
    """The context in which JAX computes in this reference's precision."""
    return jax.enable_x64(True) if self.double else contextlib.nullcontext()

  def compare(self, key: str, got: Any) -> None:
    """Compares one array under its own tolerance; integers must be equal."""
    for name, value in expand(key, np.asarray(got), self.meta).items():
      want = self.arrays[name]
      assert value.shape == want.shape, (name, value.shape, want.shape)
      tolerance = self._tolerance(name)
      assert tolerance is not None, f'{name} can only be compared in float64'
      np.testing.assert_allclose(value, want, **tolerance, err_msg=name)
      self.seen.add(name)

  def _tolerance(self, name: str) -> dict[str, float] | None:
    """Of one array in this precision; None where the file has none."""
    want = self.arrays[name]
    if np.issubdtype(want.dtype, np.integer):
      rounded = not self.double and 'tolerance_f64' in self.meta
      return None if rounded else {'rtol': 0, 'atol': 0}
    if self.double and want.dtype == np.float32:  # Rounded when they were stored.
      return {'rtol': 1e-6, 'atol': 1e-6 * np.max(np.abs(want), initial=0)}
    stated = self.meta['tolerance_f64' if self.double else 'tolerance']
    if name not in stated['atol']:
      return None
    return {'rtol': stated['rtol'], 'atol': stated['atol'][name]}

  def finish(self, skip: Mapping[str, str] | None = None) -> None:
    """Fails if a stored number was neither compared nor skipped.

    Those that this precision has no tolerance for count as skipped.

    Args:
      skip: reason by pattern of array names.
    """
    left = [
      key
      for key in self.arrays
      if not key.startswith('in/')
      and key not in self.seen
      and self._tolerance(key) is not None
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


def load(folder: Path, name: str, *, double: bool = False) -> Reference:
  """Reads `<folder>/<name>.npz`; with `double` weights and inputs are float64."""
  with np.load(folder / f'{name}.npz', allow_pickle=False) as file:
    arrays = {key: file[key] for key in file.files}
  meta = json.loads(str(arrays.pop('meta')))
  inputs = {k.removeprefix('in/'): v for k, v in arrays.items() if k.startswith('in/')}
  weights = state_dict(meta)
  if double:
    inputs, weights = _to_double(inputs), _to_double(weights)
  return Reference(meta, arrays, weights, inputs, double)


def _to_double(arrays: Arrays) -> Arrays:
  return {
    key: value.astype(np.float64) if value.dtype == np.float32 else value
    for key, value in arrays.items()
  }
