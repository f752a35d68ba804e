"""Trained runs: load one, predict with it, evaluate it on a split."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jdyn import build
from jdyn.data.corruptions import corrupt, measure
from jdyn.data.dataset import Dataset
from jdyn.data.load import load as load_data
from jdyn.evaluators.predictions import Predictions, from_outputs
from jdyn.models.input_names import input_names
from jdyn.training import variables
from jdyn.training.parallel import Parallel
from jdyn.training.predict import predict, read_hparams
from jdyn.training.workdir import read_spec
from jdyn.typing import Modalities, Outputs


class TrainedRun:
  """A finished run.

  Attributes:
    workdir: its folder.
    config: what it was told.
    stage: whose model predicts; the main one, or an expert's.
    seeds: of the run; predictions of the first are returned by `predict`.
  """

  def __init__(self, workdir: str | Path, stage: str = build.MAIN):
    """Reads the config and the verified variables of one stage.

    Raises:
      WorkdirError: the folder holds no run.
      CheckpointError: the stage is not finished, or its files are damaged.
    """
    self.workdir = Path(workdir)
    self._spec = read_spec(self.workdir)
    self.config = ConfigDict(json.loads((self.workdir / 'config.json').read_text()))
    self.seeds = build.run(self.config).seeds
    self._parallel = Parallel('jit')
    self.stage = build.find_stage(build.stage(self.config, self._spec), stage)
    folder = self.workdir / 'stages' / stage
    self._variables = variables.load_best(
      folder, self.stage, self._spec, len(self.seeds)
    )
    self._hparams = read_hparams(folder)
    self._apply = jax.jit(
      lambda v, inputs, hparams: self.stage.model.apply(
        v, inputs, train=False, hparams=hparams
      )
    )

  def predict(self, inputs: Modalities, seed: int | None = None) -> Outputs:
    """Outputs of a batch, as NumPy arrays.

    Every path is computed and the gate's choice is applied; `weights` tells it.

    Args:
      inputs: by modality, arrays `[B, ...]` as the dataset's batches hold them.
      seed: one of `seeds`; the first if None.

    Raises:
      ValueError: a modality is missing or has another shape, or the seed is none of
        the run's.
    """
    self._check(inputs)
    seed = self.seeds[0] if seed is None else seed
    if seed not in self.seeds:
      raise ValueError(f'seed={seed} is none of this run; it has {self.seeds}.')
    found, hparams = variables.for_seed(
      (self._variables, self._hparams), self.seeds.index(seed)
    )
    inputs = jax.tree.map(jnp.asarray, dict(inputs))
    return jax.tree.map(np.asarray, self._apply(found, inputs, hparams))

  def dataset(self, root: str = '') -> Dataset:
    """The run's dataset, from `root` or where it was trained from."""
    return load_data(
      build.source(self.config),
      root or self.config.data.root,
      cache=self.workdir / 'stand_in',
    )

  def evaluate(
    self,
    dataset: Dataset,
    split: str = 'test',
    *,
    corruption: str = '',
    level: float = 0.0,
    modalities: tuple[str, ...] = (),
    noise_seed: int = 0,
  ) -> Predictions:
    """Predictions of all seeds on a split, corrupted or not.

    Args:
      dataset: from `dataset()`.
      split: train, valid or test.
      corruption: one of `CORRUPTIONS`; none if empty.
      level: in the corruption's unit.
      modalities: to corrupt; all if empty.
      noise_seed: of the corruption.

    Raises:
      ValueError: unknown split, corruption or modality, or a level out of range.
    """
    if split not in dataset.splits:
      raise ValueError(f'Unknown split {split!r}; expected {sorted(dataset.splits)}.')
    examples = dataset.splits[split]
    about = {'stage': self.stage.name, 'split': split, 'origin': dataset.origin}
    if corruption:
      names = modalities or tuple(sorted(dataset.spec.modalities))
      references = measure(dataset.splits['train'], names)
      examples = corrupt(examples, corruption, level, names, noise_seed, references)
      about |= {'corruption': corruption, 'level': level, 'modalities': list(names)}
    outputs = predict(
      self.stage,
      examples,
      self._variables,
      self._hparams,
      parallel=self._parallel,
      device_bytes=build.run(self.config).device_bytes,
    )
    return from_outputs(outputs, examples, about)

  def _check(self, inputs: Mapping[str, Any]) -> None:
    for name in input_names(self.stage.model):
      if name not in inputs:
        raise ValueError(f'inputs lacks the modality {name!r}; got {sorted(inputs)}.')
      modality = self._spec.modalities[name]
      array = inputs[name]['steps'] if modality.sequence else inputs[name]
      if tuple(np.shape(array)[1:]) != tuple(modality.shape):
        raise ValueError(
          f'inputs[{name!r}] must be [B, {", ".join(map(str, modality.shape))}], got '
          f'{list(np.shape(array))}.'
        )


def load(workdir: str | Path) -> TrainedRun:
  """The main model of a finished run: `load('runs/digits_dyn').predict(inputs)`."""
  return TrainedRun(workdir)
