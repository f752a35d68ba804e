"""ESANet of two stages on images of 16 by 16, and checkpoints of it."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from jdyn import build
from jdyn.data.dataset import DataSpec, ModalitySpec
from jdyn.interop.esanet import tensor_name
from jdyn.training import variables
from jdyn.typing import Outputs
from tests.interop import torch_files

CLASSES = 13
SIZE = 16
SPEC = DataSpec(
  name='nyuv2',
  task='segmentation',
  modalities={
    'depth': ModalitySpec((SIZE, SIZE, 1)),
    'rgb': ModalitySpec((SIZE, SIZE, 3)),
  },
  num_outputs=CLASSES,
  class_names=('',) * CLASSES,
)


def config(name: str, modalities: tuple[str, ...] = ('depth', 'rgb')) -> ConfigDict:
  """A config of NYUv2 made small; `nyuv2_tiny_dyn` has three exits then."""
  found = importlib.import_module(f'configs.{name}').get_config()
  model = found.model
  network = model.network if 'network' in model else model
  network.encoders = {name: network.encoders[name] for name in modalities}
  for encoder in network.encoders.values():
    encoder.blocks, encoder.widths = (1, 1), (16, 16)
  network.widths, network.blocks, network.bins = (8,), (1,), (1, 2)
  if 'gate' in model:
    model.gate.encoder.widths, model.gate.encoder.size = (3,), 3
  found.data.update(height=SIZE, width=SIZE, num_classes=CLASSES, class_weights='none')
  return found.lock()


def draw(template: Mapping[str, Any]) -> dict[str, Any]:
  """Random variables with the shapes of a model's."""
  rng = np.random.default_rng(0)
  drawn = {
    place: rng.uniform(0.2 if place[-1] == 'var' else -0.4, 0.6, leaf.shape)
    for place, leaf in flatten_dict(template).items()
  }
  return unflatten_dict({place: x.astype(np.float32) for place, x in drawn.items()})


def checkpoint(path: Path, config: ConfigDict) -> dict[str, Any]:
  """Writes a checkpoint of the config's main model, and returns its variables."""
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.warm_up = ConfigDict()
  stage = build.stage(config, SPEC)
  template = variables.abstract(stage, SPEC, num_seeds=1)
  drawn = draw(
    jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), template)
  )
  tensors = {}
  for place, x in flatten_dict(drawn).items():
    kernel = place[-1] == 'kernel'
    theirs = np.moveaxis(x, (-1, -2), (0, 1)) if kernel else x
    tensors[tensor_name(place[1:])] = np.ascontiguousarray(theirs)
  torch_files.save(path, tensors, training=True)
  return drawn


def scored_at_random(stage, split, num_seeds, **options):
  """For `jdyn.training.result.predictor`, where nobody looks at the scores.

  To compile what finds them would take most of the time of a conversion.
  """
  del options
  rng, size, classes = np.random.default_rng(0), len(split), CLASSES
  paths = stage.costs.paths

  def counts():
    return rng.integers(0, 9, (num_seeds, size, classes, classes)).astype(np.int32)

  outputs = Outputs(
    logits=counts(),
    unimodal={path: counts() for path in paths},
    weights={path: np.full((num_seeds, size), 1 / len(paths)) for path in paths},
    aux={'gate_logits': rng.standard_normal((num_seeds, size, len(paths)))},
  )
  return lambda variables, hparams: outputs
