"""A published checkpoint as a run, in the form of one that was trained here."""

from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jdyn import build
from jdyn.data.hashing import sha256_file
from jdyn.evaluators.report import write_report
from jdyn.interop import CONVERTERS
from jdyn.training import selection, variables
from jdyn.training.loop import opened
from jdyn.training.programs import hparams_at
from jdyn.training.result import write_results
from jdyn.training.workdir import WorkdirError, describe


def convert(kind: str, path: Path, config: ConfigDict, workdir: Path) -> Path:
  """Writes variables, predictions, scores and report, as training would.

  The result says of the best epoch that it is 0, and there is no log.

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
      f'Unknown kind of checkpoint {kind!r}; expected one of {sorted(CONVERTERS)}.'
    )
  converter = CONVERTERS[kind]
  if unknown := sorted(set(converter.data) - set(config.data)):
    raise build.ConfigError(
      f'data: a model of kind {kind!r} needs the options {unknown}, which dataset '
      f'{config.data.name!r} has not; take a config on its own data.'
    )
  config.data.update(converter.data)
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
