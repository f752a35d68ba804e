"""A toy dataset and every model in small, for tests of models and of training."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
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

PICTURES = DataSpec(
  name='toy_pictures',
  task='multiclass',
  modalities={'depth': ModalitySpec((8, 8, 1)), 'rgb': ModalitySpec((8, 8, 3))},
  num_outputs=CLASSES,
  class_names=('a', 'b', 'c'),
)
"""For models that read nothing but images."""


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


def pictures(size: int, seed: int = 0) -> Split:
  """Examples of `PICTURES`, which are the brighter the greater the class."""
  rng = np.random.default_rng(seed)
  label = rng.integers(CLASSES, size=size).astype(np.int32)
  inputs = {
    name: rng.standard_normal((size, *modality.shape)).astype(np.float32)
    + label.reshape(-1, 1, 1, 1).astype(np.float32)
    for name, modality in PICTURES.modalities.items()
  }
  ids = np.array([f'toy_pictures/{seed}/{row:03}' for row in range(size)])
  return Split(inputs=inputs, label=label, ids=ids)


SCENES = DataSpec(
  name='toy_scenes',
  task='segmentation',
  modalities={'depth': ModalitySpec((16, 16, 1)), 'rgb': ModalitySpec((16, 16, 3))},
  num_outputs=CLASSES,
  class_names=('a', 'b', 'c'),
  class_weights=(0.5, 1.0, 2.0),
)
"""For models that judge every pixel."""


def scenes(size: int, seed: int = 0) -> Split:
  """Images of `SCENES`: patches, some void, whose colours show what they are."""
  rng = np.random.default_rng(seed)
  label = rng.integers(CLASSES + 1, size=(size, 4, 4)).astype(np.uint8)
  label = label.repeat(4, axis=1).repeat(4, axis=2)
  inputs = {
    name: rng.standard_normal((size, *modality.shape)).astype(np.float32)
    + label[..., None]
    for name, modality in SCENES.modalities.items()
  }
  ids = np.array([f'toy_scenes/{seed}/{row:03}' for row in range(size)])
  return Split(inputs=inputs, label=label, ids=ids)


def mlp(*hidden: int, **options) -> dict[str, Any]:
  """An encoder or head entry."""
  return dict(name='mlp', hidden=hidden, **options)


_IMAGE = dict(name='maxout', hidden=(4,), dropout=0.3)  # BatchNorm and dropout.
_TEXT = mlp(5, features=4)
_AUDIO = dict(name='gru', features=3)
_CONCAT = dict(name='concat')
# Wide enough for XLA's own convolution: ours of few outputs loses 3e-3 on several
# devices where the compiler's optimisations are off, as in these tests, and not else.
_RESNET = dict(name='resnet', block='basic', blocks=(1,), widths=(12,))
_STAGES = dict(name='resnet', block='basic', blocks=(1, 1), widths=(4, 5))


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


def esanet() -> dict[str, Any]:
  """A segmentation network of two stages."""
  return dict(
    name='esanet',
    encoders=dict(depth=_STAGES, rgb=_STAGES),
    bins=(1, 2),
    widths=(6,),
    blocks=(1,),
  )


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
  'esanet': esanet(),
  'gated_stages': dict(
    name='gated_stages',
    network=esanet(),
    gate=dict(
      name='learned',
      encoder=dict(name='strided_conv', widths=(3,), size=3),
      head=dict(name='identity'),
    ),
    policy='learned',
  ),
  'locally_gated_stages': dict(
    name='locally_gated_stages',
    network=esanet(),
    gate=dict(
      name='learned',
      encoder=dict(name='strided_conv', widths=(3,), size=2),
      head=dict(name='identity'),
    ),
  ),
  'mmtm': dict(
    name='mmtm',
    encoders=dict(depth=_RESNET, rgb=_RESNET),
    head=mlp(),
    transfer_after=(1,),
    ratio=4,
  ),
}
"""Every model, by case; the part before the dash is the name in jdyn's table."""

# Of cases that do not read `SPEC`.
_DATA = {
  'esanet': (SCENES, scenes),
  'gated_stages': (SCENES, scenes),
  'locally_gated_stages': (SCENES, scenes),
  'mmtm': (PICTURES, pictures),
}

LINEAR_EXPERTS = gated(dict(text=unimodal('text'), image=unimodal('image')))
"""The smallest gated mixture; it compiles fast."""

GATED = tuple(case for case in MODELS if case.startswith('gated_mixture'))


def data_of(case: str) -> tuple[DataSpec, Callable[[int, int], Split]]:
  """What a case of `MODELS` reads, and what makes so many examples from a seed."""
  return _DATA.get(case, (SPEC, split))


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


def read_lines(path: Path) -> list[dict[str, Any]]:
  """The records of a log."""
  return [json.loads(line) for line in path.read_text().splitlines()]
