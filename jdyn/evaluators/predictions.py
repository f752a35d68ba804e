"""A model's predictions on every example of a split, for every seed."""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jdyn.data import expansion, npy
from jdyn.data.dataset import DataError, Split
from jdyn.metrics.interval import summarize
from jdyn.tasks import Task
from jdyn.typing import Outputs

# What comes of files that are cut off, have flipped bits or are others.
_DAMAGE = (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError)

_UNSPENT = 'unspent_macs'
_EVIDENCE = 'evidence/'

# Fields that map names to arrays; in the file `group/name`.
_GROUPS = ('expert_logits', 'weights', 'solver', 'unspent_macs', 'evidence')


@dataclasses.dataclass(frozen=True)
class Predictions:
  """Predictions of `S` seeds on `N` examples.

  Attributes:
    ids: `[N]` names of the examples.
    label: `[N, ...]`, what the task keeps of it (`Task.kept_label`).
    logits: `[S, N, ..., C]` of the model as deployed, or what the task keeps of them
      (`Task.kept`), and so for the experts.
    expert_logits: `[S, N, ..., C]` of each path or expert alone.
    weights: `[S, N]` per path; one-hot for a hard gate.
    about: strings and numbers worth keeping: stage, split, origin, class names, ...
    gate_logits: `[S, N, K]`; None where no gate chooses among paths.
    paths: the names of the gate's `K` paths, in its order; else empty.
    solver: what the solvers of equilibrium models did, `[S, N, ...]` by names such as
      `solver/fused/steps`, below a path `joint/solver/fused/steps` (see
      `jdyn.fusions.equilibrium`). Of a gated model they are of every example, whether
      or not it is sent along that path.
    unspent_macs: `[S, N]` by path, or by '' of a model without paths: what an example
      needed less than the model's or path's MACs, because its solvers converged early.
    evidence: `[S, N]` of evidential models: `conflict`, `vacuity` and
      `vacuity/<view>` (see `jdyn.fusions.evidential`).
  """

  ids: np.ndarray
  label: np.ndarray
  logits: np.ndarray
  expert_logits: Mapping[str, np.ndarray]
  weights: Mapping[str, np.ndarray]
  about: Mapping[str, Any]
  gate_logits: np.ndarray | None = None
  paths: tuple[str, ...] = ()
  solver: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  unspent_macs: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  evidence: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

  @property
  def num_seeds(self) -> int:
    """S."""
    return len(self.logits)

  @property
  def blocks(self) -> dict[str, dict[str, np.ndarray]]:
    """`solver` by block, such as `fused` or `joint/fused`, and then by what it is."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, values in sorted(self.solver.items()):
      *parts, what = name.split('/')
      parts.remove('solver')
      found.setdefault('/'.join(parts), {})[what] = values
    return found

  def save(self, path: Path) -> None:
    """Writes one `.npz` that is there as a whole or not at all."""
    arrays = {'ids': self.ids, 'label': self.label, 'logits': self.logits}
    for group in _GROUPS:
      arrays |= {f'{group}/{k}': v for k, v in getattr(self, group).items()}
    if self.gate_logits is not None:
      arrays |= {'gate_logits': self.gate_logits, 'paths': np.array(self.paths)}
    arrays['about'] = np.array(json.dumps(dict(self.about), sort_keys=True))
    partial = path.with_suffix('.partial')
    with open(partial, 'wb') as file:
      np.savez_compressed(file, **arrays)
      file.flush()
      os.fsync(file.fileno())
    os.replace(partial, path)

  @classmethod
  def load(cls, path: Path) -> 'Predictions':
    """Reads what `save` wrote.

    Raises:
      DataError: the file is damaged or not such a file.
    """
    try:
      # Counts of pixels are mostly zeros, and pack as well as anything.
      arrays = npy.read_archive(path, expansion.DEFLATE_RATIO)
      about = json.loads(str(arrays.pop('about')))
      paths = tuple(arrays.pop('paths').tolist()) if 'paths' in arrays else ()
      named = {group: {} for group in _GROUPS}
      for name in [name for name in arrays if '/' in name]:
        group, key = name.split('/', 1)
        named[group][key] = arrays.pop(name)
      return cls(**arrays, **named, about=about, paths=paths)
    except _DAMAGE as error:
      raise DataError(
        f'{path} does not hold predictions ({error!s:.200}); write it again with '
        '`python -m jdyn.evaluate`.'
      ) from error


def from_outputs(
  outputs: Outputs,
  split: Split,
  task: Task,
  about: Mapping[str, Any],
  paths: Sequence[str] = (),
) -> Predictions:
  """Predictions from outputs `[S, N, ...]` on all examples of a split.

  Args:
    outputs: of a model, with logits as the task keeps them.
    split: whose examples these are.
    task: of the dataset.
    about: see `Predictions`.
    paths: of a gated model, in the order of its gate's logits. The outputs do not
      tell: their dicts come sorted out of a compiled program.
  """
  aux = outputs.aux
  return Predictions(
    ids=split.ids,
    label=task.kept_label(split.label),
    logits=outputs.logits,
    expert_logits=outputs.unimodal,
    weights=outputs.weights,
    about=about,
    gate_logits=aux['gate_logits'] if paths else None,
    paths=tuple(paths),
    solver={name: aux[name] for name in aux if 'solver' in name.split('/')},
    unspent_macs={
      name.rpartition('/')[0]: aux[name] for name in aux if name.endswith(_UNSPENT)
    },
    evidence={
      name.removeprefix(_EVIDENCE): aux[name]
      for name in aux
      if name.startswith(_EVIDENCE)
    },
  )


def reroute(predictions: Predictions, chosen: np.ndarray) -> Predictions:
  """The same examples, each sent along another path.

  All that is known of the paths stays: their logits, solvers and unspent MACs.

  Args:
    predictions: of a model with a gate.
    chosen: `[S, N]` places in `predictions.paths`.
  """
  sent = {path: chosen == k for k, path in enumerate(predictions.paths)}
  logits = np.empty_like(predictions.logits)
  for path, here in sent.items():
    logits[here] = predictions.expert_logits[path][here]
  weights = {path: here.astype(np.float32) for path, here in sent.items()}
  return dataclasses.replace(predictions, logits=logits, weights=weights)


def per_example(
  function: Callable[..., Any], logits: np.ndarray, label: np.ndarray
) -> np.ndarray:
  """What a task says of every example, `[S, N]` in float64.

  Args:
    function: of logits and a batch, such as `task.loss` or `task.correct`.
    logits: `[S, N, ...]`.
    label: `[N, ...]`.
  """
  found = [np.asarray(function(one_seed, {'label': label})) for one_seed in logits]
  return np.stack(found).astype(np.float64)


def score_all(
  predictions: Predictions, task: Any, path_macs: Mapping[str, int], total_macs: int
) -> dict[str, Any]:
  """Scores per seed of the model, of each path alone, and of their plain average.

  Args:
    predictions: of one split.
    task: any of `TASKS`.
    path_macs: multiply-accumulates per path, gate included.
    total_macs: when everything is computed.

  Returns:
    `n`; `model`, each of `paths`, and `uniform` where logits are kept: `{score: [S]}`;
    `usage`: `{path: [S]}`; `interval`: `{score: Summary}` of the model; `macs` `[S]`:
    the mean per example of what must be executed, the chosen path for a hard gate and
    everything otherwise, less what solvers left unspent; `solver`, by block: `steps`
    `[S]`, the mean, and `converged` `[S]`, the share of the examples.
  """
  scores = {
    'n': len(predictions.ids),
    'model': _per_seed(task, predictions.logits, predictions.label),
    'paths': {
      name: _per_seed(task, logits, predictions.label)
      for name, logits in predictions.expert_logits.items()
    },
    'usage': {
      name: weight.mean(axis=1).tolist() for name, weight in predictions.weights.items()
    },
    'macs': executed_macs(predictions, path_macs, total_macs).mean(axis=1).tolist(),
    'solver': {
      block: {
        what: found[what].mean(axis=1, dtype=np.float64).tolist()
        for what in ('steps', 'converged')
      }
      for block, found in predictions.blocks.items()
    },
  }
  if predictions.expert_logits and task.keeps_logits:
    mean = np.mean(list(predictions.expert_logits.values()), axis=0)
    scores['uniform'] = _per_seed(task, mean, predictions.label)
  scores['interval'] = {
    name: {
      # JSON has no NaN: one seed has no interval.
      key: None if math.isnan(value) else value
      for key, value in dataclasses.asdict(summarize(values)).items()
    }
    for name, values in scores['model'].items()
  }
  return scores


def executed_macs(
  predictions: Predictions, path_macs: Mapping[str, int], total_macs: int
) -> np.ndarray:
  """Multiply-accumulates `[S, N]` that each example must execute.

  Args:
    predictions: of one split.
    path_macs: per path, gate included, with all the steps that solvers may take.
    total_macs: likewise, when everything is computed.

  Returns:
    Those of the chosen path for a hard gate, else of everything, less what solvers
    left unspent there.
  """
  weights = {path: predictions.weights[path] for path in path_macs}
  if path_macs and all(np.isin(weight, (0, 1)).all() for weight in weights.values()):
    alone = macs_by_path(predictions, path_macs)
    return sum(weights[path] * alone[path] for path in path_macs)
  shape = predictions.logits.shape[:2]
  return float(total_macs) - sum(predictions.unspent_macs.values(), np.zeros(shape))


def macs_by_path(
  predictions: Predictions, path_macs: Mapping[str, int]
) -> dict[str, np.ndarray]:
  """Multiply-accumulates `[S, N]` of each example along each path.

  What an expert that the gate reads left unspent is taken off its own path alone, so
  those of the others are the most that they can be.
  """
  shape = predictions.logits.shape[:2]
  found = {path: np.full(shape, float(macs)) for path, macs in path_macs.items()}
  for name, unspent in predictions.unspent_macs.items():
    for path in found:
      if f'{name}/'.startswith(f'{path}/'):  # Or below it, in a nested mixture.
        found[path] -= unspent
  return found


def path_prices(valid: Predictions, path_macs: Mapping[str, int]) -> dict[str, float]:
  """What an example is expected to execute along each path: a budget's prices.

  Args:
    valid: predictions of the validation split.
    path_macs: the most that each path may execute.
  """
  return {path: float(m.mean()) for path, m in macs_by_path(valid, path_macs).items()}


def convergence_warning(by_split: Mapping[str, Predictions]) -> str:
  """Says on how many examples solvers found no fixed point; empty if on none.

  Args:
    by_split: predictions of one stage.
  """
  missed: dict[str, list[str]] = {}
  for split, predictions in by_split.items():
    for block, found in predictions.blocks.items():
      if share := np.mean(found['converged'] == 0):
        missed.setdefault(block, []).append(f'{100 * share:.3g} % of the {split}')
  if not missed:
    return ''
  blocks = [f'block {name} on {" and ".join(at)}' for name, at in missed.items()]
  return (
    f'Not converged: {"; ".join(blocks)} examples. There the model used the best of '
    'its tries, which is no fixed point. Raise max_steps of the fusion, or raise '
    'loss.jacobian (with its jacobian_probes) so that the map contracts faster.'
  )


def _per_seed(task, logits: np.ndarray, label: np.ndarray) -> dict[str, list[float]]:
  """Scores of `[S, N, ...]` logits: one list entry per seed."""
  rows = [task.kept_scores(one_seed, label) for one_seed in logits]
  return {name: [float(row[name]) for row in rows] for name in rows[0]}
