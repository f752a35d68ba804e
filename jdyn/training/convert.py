"""A published checkpoint as a run, or as what a run starts with."""

import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jdyn import build
from jdyn.data.hashing import sha256_file
from jdyn.data.sealed import write_sealed
from jdyn.encoders.resnet import ResNet
from jdyn.evaluators.report import write_report
from jdyn.interop import CONVERTERS, ENCODERS
from jdyn.training import selection, variables
from jdyn.training.loop import opened
from jdyn.training.programs import hparams_at
from jdyn.training.result import write_results
from jdyn.training.workdir import WorkdirError, describe

_LOG = logging.getLogger(__name__)

CHANNELS = {'rgb': 3, 'depth': 1}
"""Of the images of a modality whose encoder can be converted."""


def convert(kind: str, path: Path, config: ConfigDict, workdir: Path) -> Path:
  """Writes variables, predictions, scores and report, as training would.

  The result says of the best epoch that it is 0, and there is no log. What training
  would start with, `warm_up` and `pretrained`, is dropped from the config.

  Args:
    kind: of the checkpoint, one of `CONVERTERS`.
    path: of the checkpoint.
    config: of a model without experts. Its data are prepared as the checkpoint's
      model knows them, whatever it says.
    workdir: a folder without a run.

  Returns:
    The path of the report.

  Raises:
    ConfigError: the config cannot run, or is not one for this kind of checkpoint.
    DataError: the checkpoint or the data is not what its format promises, or the
      checkpoint is of another model than the config's.
    WorkdirError: the folder is in use or holds a run.
  """
  if kind not in CONVERTERS:
    raise build.ConfigError(
      f'Unknown kind of checkpoint {kind!r}; expected one of '
      f'{sorted({*CONVERTERS, *ENCODERS})}.'
    )
  converter = CONVERTERS[kind]
  if unknown := sorted(set(converter.data) - set(config.data)):
    raise build.ConfigError(
      f'data: a model of kind {kind!r} needs the options {unknown}, which dataset '
      f'{config.data.name!r} has not; take a config on its own data.'
    )
  config.data.update(converter.data)
  _drop_start(config)
  with opened(config, workdir) as (stage, context):
    if len(context.run.seeds) > 1 or stage.experts:
      raise build.ConfigError(
        'A checkpoint holds one model; set num_seeds=1, and take a config without '
        'experts.'
      )
    if (workdir / 'config.json').exists():
      raise WorkdirError(f'{workdir} holds a run; give another --workdir.')
    spec = context.dataset.spec
    template = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype),
      variables.abstract(stage, spec, num_seeds=1),
    )
    found = converter.read(path, template)
    notes = {
      'converted from': f'{path.name}, a checkpoint of kind {kind}',
      'SHA-256 of the checkpoint': sha256_file(path),
    }
    describe(workdir, config.to_dict(), context.dataset, notes)
    whole = jax.tree.map(
      lambda like, x: jnp.asarray(x, like.dtype)[None], template, found
    )
    best = selection.start(whole, 1, stage.maximize)
    start = hparams_at(stage.make_schedules(1), jnp.zeros((), jnp.int32))
    hparams = jax.tree.map(lambda x: jnp.asarray(x)[None], stage.eval_hparams(start))
    write_results([stage], context.dataset.splits, {}, best, hparams, [context])
    return write_report(workdir)


def convert_encoder(
  kind: str, path: Path, config: ConfigDict, modality: str, folder: Path
) -> str:
  """Writes the variables of an encoder, as `pretrained` of a run takes them.

  `weights.json` beside them says where they come from.

  Args:
    kind: of the checkpoint, one of `jdyn.interop.ENCODERS`.
    path: of the checkpoint.
    config: of a model with such an encoder; its data are not needed.
    modality: whose encoder it is, one of `CHANNELS`.
    folder: to be made.

  Returns:
    The key of the config that makes a run start with it.

  Raises:
    ConfigError: the model has no such encoder.
    DataError: the checkpoint is not what its format promises, or of another encoder.
    WorkdirError: there is something in the folder.
  """
  encoder = build.encoder(config, modality)
  if not isinstance(encoder, ResNet):
    raise build.ConfigError(
      f"model.encoders.{modality} is no 'resnet', and a checkpoint of kind {kind!r} "
      'is nothing else.'
    )
  if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
    raise WorkdirError(f'{folder} is there and not empty; give another --out.')
  image = jax.ShapeDtypeStruct((1, 32, 32, CHANNELS[modality]), jnp.float32)
  template = jax.eval_shape(
    lambda x: encoder.init(jax.random.key(0), x, train=False), image
  )
  found = ENCODERS[kind](path, template)
  whole = jax.tree.map(lambda like, x: np.asarray(x, like.dtype)[None], template, found)
  variables.save_best(folder, 0, whole)
  about = {'kind': kind, 'source': path.name, 'source_sha256': sha256_file(path)}
  write_sealed(folder / 'weights.json', {**about, 'modality': modality})
  return f'{_first_stage(config)}.pretrained.{modality}'


def _first_stage(config: ConfigDict) -> str:
  """The key of the stage that is trained first, and warms up all others."""
  key = 'config'
  while names := list(config.warm_up):
    key, config = f'{key}.warm_up.{names[0]}', config.warm_up[names[0]]
  return key


def _drop_start(config: ConfigDict) -> None:
  """Takes away what training would start with, since a checkpoint is the end."""
  started = [*config.warm_up, *filter(None, config.pretrained.values())]
  if started:
    _LOG.info('The config starts with %s; a conversion does without.', started)
  config.pretrained.update(dict.fromkeys(config.pretrained, ''))
  with config.unlocked():
    config.warm_up = ConfigDict()
