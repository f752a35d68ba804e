"""A toy dataset and every model in small, for tests of models and of training."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from configs import base
from jdyn.data.dataset import Dataset, DataSpec, ModalitySpec, Split

CLASSES = 3
STEPS = 4
SPEC = DataSpec(
  name='toy',
  task='multiclass',
  modalities={
    'audio': ModalitySpec((STEPS, 2), sequence=True),
    'image': ModalitySpec((2, 3)),
    'text': ModalitySpec((4,)),
  },
  num_outputs=CLASSES,
  class_names=('a', 'b', 'c'),
)


def split(size: int, seed: int = 0) -> Split:
  """Examples of all modalities, of which `text` says most about the class."""
  rng = np.random.default_rng(seed)
  label = rng.integers(CLASSES, size=size).astype(np.int32)
  text = rng.standard_normal((size, 4)).astype(np.float32)
  text[:, :CLASSES] += 2 * np.eye(CLASSES, dtype=np.float32)[label]
  steps = rng.standard_normal((size, STEPS, 2)).astype(np.float32)
  return Split(
    inputs={
      'audio': {
        'steps': steps + label[:, None, None].astype(np.float32),
        'length': rng.integers(1, STEPS + 1, size=size).astype(np.int32),
      },
      'image': rng.standard_normal((size, 2, 3)).astype(np.float32),
      'text': text,
    },
    label=label,
    ids=np.array([f'toy/{seed}/{row:03}' for row in range(size)]),
  )


def mlp(*hidden: int, **options) -> dict[str, Any]:
  """An encoder or head entry."""
  return dict(name='mlp', hidden=hidden, **options)


_IMAGE = dict(name='maxout', hidden=(4,), dropout=0.3)  # BatchNorm and dropout.
_TEXT = mlp(5, features=4)
_AUDIO = dict(name='gru', features=3)
_CONCAT = dict(name='concat')


def unimodal(modality: str, encoder: Mapping[str, Any] | None = None) -> dict[str, Any]:
  """A model of one modality with a linear head; linear as a whole by default."""
  encoder = encoder or dict(name='identity')
  return dict(name='unimodal', modality=modality, encoder=encoder, head=mlp())


def joint() -> dict[str, Any]:
  """A model of all modalities."""
  return dict(
    name='feature_fusion',
    encoders=dict(audio=_AUDIO, image=_IMAGE, text=_TEXT),
    fusion=_CONCAT,
    head=mlp(5),
  )


def gated(experts: Mapping[str, Any], *gate_inputs: str) -> dict[str, Any]:
  """A gate over whole models; it reads `text` if nothing else is given."""
  return dict(
    name='gated_mixture',
    paths=tuple(experts),
    gate=dict(name='learned', encoder=dict(name='identity'), head=mlp(4)),
    gate_inputs=gate_inputs or ('text',),
    experts=experts,
  )


def _two_paths() -> dict[str, Any]:
  return dict(text=unimodal('text', _TEXT), joint=joint())


MODELS = {
  'unimodal': unimodal('image', _IMAGE),
  'early_fusion': dict(
    name='early_fusion', modalities=('text', 'image'), encoder=_IMAGE, head=mlp()
  ),
  'feature_fusion': joint(),
  'decision_fusion': dict(
    name='decision_fusion',
    experts=dict(image=unimodal('image', _IMAGE), text=unimodal('text', _TEXT)),
    fusion=dict(name='average'),
  ),
  'decision_fusion-confident': dict(
    name='decision_fusion',
    experts=dict(
      image=unimodal('image', _IMAGE),
      joint=dict(
        name='feature_fusion',
        encoders=dict(image=_IMAGE, text=_TEXT),
        fusion=_CONCAT,
        head=mlp(),
        absent_embedding=True,
      ),
    ),
    fusion=dict(name='energy_weighted'),
  ),
  'gated_mixture': gated(_two_paths(), 'text', 'image'),
  'gated_mixture-cascade': gated(
    _two_paths(), 'hidden/text', 'logits/text', 'confidence/text'
  ),
  'gated_mixture-nested': gated(
    dict(inner=gated(_two_paths()), audio=unimodal('audio', _AUDIO)), 'image'
  ),
}
"""Every model, by case; the part before the dash is the name in jdyn's table."""

LINEAR_EXPERTS = gated(dict(text=unimodal('text'), image=unimodal('image')))
"""The smallest gated mixture; it compiles fast."""

GATED = tuple(case for case in MODELS if case.startswith('gated_mixture'))


def config(model: Mapping[str, Any] | None = None, **options) -> ConfigDict:
  """A run of one stage with small steps; `options` are keys with their dots."""
  config = base.get_config()
  config.model = ConfigDict(dict(model or {}))
  config.parallel = 'jit'
  config.batch_size = 8
  config.epochs = 2
  for key, value in options.items():
    config.update_from_flattened_dict({key.replace('__', '.'): value})
  return config


def dataset(train: int = 44) -> Dataset:
  """A dataset whose last batch is short in every split."""
  splits = {
    'train': split(train),
    'valid': split(13, seed=1),
    'test': split(13, seed=2),
  }
  return Dataset(spec=SPEC, splits=splits, origin='bundled', hashes={})


def stages(**options) -> ConfigDict:
  """A run of three stages: two experts and a gate over them."""
  run = config({**gated(_two_paths()), 'experts': {}}, **options)
  for path, model in _two_paths().items():
    expert = base.stage(ConfigDict(model))
    expert.batch_size, expert.epochs = 8, 2
    run.experts[path] = expert
  return run
