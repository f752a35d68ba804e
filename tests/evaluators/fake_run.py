"""Folders as training leaves them, with tiny made-up arrays."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from jdyn.data.sealed import write_sealed
from jdyn.evaluators.predictions import Predictions, score_all
from jdyn.evaluators.run_files import write_result
from jdyn.tasks import TASKS

CHEAP, DEAR = 1_000, 5_000
GATE_MACS = 100
VERSION = '9.8.7'
DEVICE = 'Abacus <& beads>'
MAX_STEPS, TOL, STEP_MACS = 12, 1e-3, 10


@dataclasses.dataclass(frozen=True)
class FakeRun:
  """What to make up; `write` returns the predictions by stage and split."""

  task: str = 'multiclass'
  seeds: tuple[int, ...] = (3, 4, 5)
  gated: bool = True
  origin: str = 'bundled'
  class_names: tuple[str, ...] = ('ant', 'bee', 'cat')
  examples: int = 40
  epochs: int = 4
  sent_to_dear: float = 0.4
  paths: tuple[str, str] = ('cheap', 'dear')
  gate_logits: bool = True
  timed: bool = False
  blocks: tuple[str, ...] = ()  # Of the dear path, or of a model without paths.
  stalled: float = 0.0  # Share of the examples that the first one does not solve.
  fusion: str = ''  # Of a model that is not gated: energy or evidence of both paths.

  @property
  def outputs(self) -> int:
    return len(self.class_names) or 1

  def write(self, folder: Path) -> dict[str, dict[str, Predictions]]:
    stages = (*self.paths, 'main') if self.gated else ('main',)
    sizes = {'train': 90, 'valid': self.examples, 'test': self.examples}
    made = {
      split: self._predictions(np.random.default_rng(k))
      for k, split in enumerate(('valid', 'test'))
    }
    folder.mkdir(parents=True, exist_ok=True)
    model = {'name': 'made_up', 'fusion': {'max_steps': MAX_STEPS, 'tol': TOL}}
    write_sealed(folder / 'config.json', {'model': model, 'notes': self.class_names})
    write_sealed(folder / 'environment.json', {'versions': {'jax': VERSION}})
    spec = {
      'task': self.task,
      'num_outputs': self.outputs,
      'class_names': list(self.class_names),
      'modalities': {'x': [2]},
    }
    data = {'name': 'made-up', 'origin': self.origin, 'hashes': {'x.npz': 'abc123'}}
    write_sealed(folder / 'data.json', data | {'sizes': sizes, 'spec': spec})
    if self.timed:
      write_sealed(folder / 'latency.json', self._latency())
    predictions = {
      stage: {split: made[split][stage] for split in made} for stage in stages
    }
    for stage, by_split in predictions.items():
      self._write_stage(folder / 'stages' / stage, by_split)
    return predictions

  def _predictions(self, rng: np.random.Generator) -> dict[str, Predictions]:
    """Of one split, by stage: the dear path errs less than the cheap one."""
    label, truth = self._labels(rng)
    shape = (len(self.seeds), *truth.shape)
    logits = {
      path: (truth + noise * rng.normal(size=shape)).astype(np.float32)
      for path, noise in zip(self.paths, (1.6, 0.9), strict=True)
    }
    if self.task == 'segmentation':
      logits = {
        path: _pixels(rng, truth, right, len(self.seeds))
        for path, right in zip(self.paths, (0.6, 0.8), strict=True)
      }
    # The gate's output order is not the order of costs, nor that of names.
    gate_paths = self.paths[::-1]
    margin = np.quantile(rng.normal(size=1000), 1 - self.sent_to_dear)
    gate_logits = rng.normal(size=(*shape[:2], 2)).astype(np.float32) / np.sqrt(2)
    gate_logits[..., 1] += margin
    dear = gate_logits[..., 0] > gate_logits[..., 1]
    shares = ((~dear).astype(np.float32), dear.astype(np.float32))
    weights = dict(zip(self.paths, shares, strict=True))
    ids = np.array([f'id{n}' for n in range(self.examples)])
    kept = next(iter(logits.values()))
    shares = {
      p: w.reshape(w.shape + (1,) * (kept.ndim - 2)) for p, w in weights.items()
    }
    mixed = sum(shares[path] * logits[path] for path in logits).astype(kept.dtype)
    alone = {
      path: Predictions(ids, label, logits[path], {}, {}, {'stage': path})
      for path in logits
    }
    dear = self.paths[1]
    solver, unspent = self._solver(rng)
    alone[dear] = dataclasses.replace(
      alone[dear], solver=solver, unspent_macs={'': unspent} if solver else {}
    )
    if self.fusion:
      return {'main': self._fused(ids, label, logits)}
    if not self.gated:
      return {'main': alone[dear]}
    main = Predictions(ids, label, mixed, logits, weights, {'stage': 'main'})
    main = dataclasses.replace(
      main,
      solver={f'{dear}/{name}': found for name, found in solver.items()},
      unspent_macs={dear: unspent} if solver else {},
    )
    if self.gate_logits:
      main = dataclasses.replace(main, gate_logits=gate_logits, paths=gate_paths)
    return {**alone, 'main': main}

  def _fused(self, ids, label, logits) -> Predictions:
    """Votes of both paths, by energy (QMF) or by evidence (TMC)."""
    about = {'stage': 'main'}
    if self.fusion == 'energy':
      weights = {p: np.log(np.exp(x).sum(-1)) / 10 for p, x in logits.items()}
      fused = sum(weights[path][..., None] * logits[path] for path in logits)
      return Predictions(ids, label, fused, logits, weights, about)
    first, second = (np.log1p(np.exp(x)) for x in logits.values())
    sums = {path: np.log1p(np.exp(x)).sum(-1) for path, x in logits.items()}
    vacuity = {path: self.outputs / (self.outputs + s) for path, s in sums.items()}
    fused = first + second + first * second / self.outputs
    belief, other = (
      of / (self.outputs + of.sum(-1, keepdims=True)) for of in (first, second)
    )
    conflict = belief.sum(-1) * other.sum(-1) - (belief * other).sum(-1)
    evidence = {f'vacuity/{path}': left for path, left in vacuity.items()}
    evidence |= {'vacuity': self.outputs / (self.outputs + fused.sum(-1))}
    return Predictions(
      ids,
      label,
      np.log1p(fused),
      {path: np.log1p(np.log1p(np.exp(x))) for path, x in logits.items()},
      {path: 1 - left for path, left in vacuity.items()},
      about,
      evidence=evidence | {'conflict': conflict},
    )

  def _solver(self, rng) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What the solvers of all blocks say, and the MACs that they left unspent."""
    shape = len(self.seeds), self.examples
    found, unspent = {}, np.zeros(shape, np.float32)
    for block in self.blocks:
      speed = rng.uniform(0.3, 1.5, size=(*shape, 1))  # Digits per step.
      trace = 10 ** -(speed * np.arange(MAX_STEPS))
      if block == self.blocks[0]:
        stalled = rng.random(shape) < self.stalled
        trace[stalled] = rng.choice([0.5, np.nan], size=(stalled.sum(), 1))
      done = trace < TOL
      steps = np.where(done.any(-1), done.argmax(-1) + 1, MAX_STEPS)
      last = np.take_along_axis(trace, steps[..., None] - 1, axis=-1)
      trace = np.where(np.arange(MAX_STEPS) < steps[..., None], trace, last)
      values = {
        'steps': steps,
        'residual': np.where(np.isnan(last), np.inf, last)[..., 0],
        'converged': done.any(-1),
        'trace': trace,
      }
      for what, value in values.items():
        found[f'solver/{block}/{what}'] = value.astype(np.float32)
      unspent += (STEP_MACS * (MAX_STEPS - steps)).astype(np.float32)
    return found, unspent

  def _latency(self) -> dict[str, Any]:
    """Of one example, and of eight that the gate splits evenly."""
    cheap, dear = self.paths
    one = {'size': 1, 'policy': 'switch', 'dense': 0.8, 'gated': 0.35}
    eight = {'size': 8, 'policy': '<b>ladder', 'dense': 0.4, 'gated': 0.16}
    macs = {'gated_macs': GATE_MACS + (CHEAP + DEAR) / 2}
    batches = [
      {**one, **macs, 'paths': {cheap: 0.1, dear: 0.6}, 'realised': 1.161},
      {**eight, **macs, 'paths': {cheap: 0.05, dear: 0.31}, 'realised': 1.2704},
    ]
    versions = {'jax': VERSION}
    return {'device': DEVICE, 'versions': versions, 'seed': 4, 'batches': batches}

  def _labels(self, rng) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and logits `[N, C]` that would be right."""
    if self.task == 'multiclass':
      label = rng.integers(self.outputs, size=self.examples).astype(np.int32)
      return label, 2.0 * np.eye(self.outputs)[label]
    if self.task == 'multilabel':
      label = (rng.random((self.examples, self.outputs)) < 0.4).astype(np.float32)
      return label, 2 * label - 1
    if self.task == 'segmentation':  # Pixels of every class.
      pixels = rng.integers(20, 200, size=(self.examples, self.outputs))
      return np.zeros((self.examples, 0), np.uint8), pixels
    label = rng.uniform(-3, 3, self.examples).astype(np.float32)
    return label, label[:, None]

  def _write_stage(self, folder: Path, by_split: dict[str, Predictions]) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(folder.name))
    task = TASKS[self.task](num_outputs=self.outputs)
    gated = self.gated and folder.name == 'main'
    alone = dict(zip(self.paths, (CHEAP, DEAR), strict=True))
    paths = {path: n + GATE_MACS for path, n in alone.items()} if gated else {}
    everything = sum(alone.values()) + GATE_MACS
    total = everything if folder.name == 'main' else alone[folder.name]
    for split, predictions in by_split.items():
      predictions.save(folder / f'predictions_{split}.npz')
    result = {
      'stage': folder.name,
      'task': self.task,
      'origin': self.origin,
      'seeds': list(self.seeds),
      'select': task.main_score,
      'best_epoch': [1 + s % self.epochs for s in range(len(self.seeds))],
      'parameters': 10 * total + 7,
      'macs': {'total': total, 'paths': paths},
      'splits': {
        split: score_all(predictions, task, paths, total)
        for split, predictions in by_split.items()
      },
    }
    lines = []
    for epoch in range(1, self.epochs + 1):
      for part in (0.6, 1.0):
        lines.append(
          {
            'split': 'train',
            'step': 10 * (epoch - 1) + round(10 * part),
            'epoch': epoch - 1 + part,
            'batch_hash': 'ff',
            'loss': (np.exp(-epoch - part) + rng.random(len(self.seeds))).tolist(),
          }
        )
      record = {'split': 'valid', 'step': 10 * epoch, 'epoch': epoch}
      record[task.main_score] = (0.5 + 0.1 * rng.random(len(self.seeds))).tolist()
      for path in paths:
        dear = self.sent_to_dear
        share = dear if path == self.paths[1] else 1 - dear
        record[f'usage/{path}'] = [share] * len(self.seeds)
      lines.append(record)
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (folder / 'metrics.jsonl').write_text(text)
    write_result(folder, result)


def _pixels(rng, truth, right, seeds) -> np.ndarray:
  """Confusion counts `i32[S, N, C, C]` with a share of right pixels."""
  classes = truth.shape[1]
  found = np.zeros((seeds, *truth.shape, classes), np.int32)
  for seed, n, c in np.ndindex(found.shape[:3]):
    chances = np.full(classes, (1 - right) / (classes - 1))
    chances[c] = right
    found[seed, n, c] = rng.multinomial(truth[n, c], chances)
  return found
